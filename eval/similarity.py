"""`python -m eval.similarity run=<dir>`: how the blocks of a trained backbone relate to each other and to noise.

Parts, each of them by itself: cosine, cka, neighbours (mutual k-NN and CKNNA), encoder, gradients, drop, noise, pca.

Letters: K blocks, T times, n rows, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from core.commands.entry import Entry
from core.data.pixels import to_uint8
from core.precision import Precision
from core.storage.run_folder import RunDirectory
from eval.inside.analyses import (
    cosine_matrices,
    drop_effects,
    gradient_norms,
    noise_robustness,
    pooled_tokens,
    principal_colours,
)
from eval.inside.encoder import encoder_features
from eval.inside.figures import (
    DIVERGING,
    Pairs,
    Range,
    block_curves,
    block_matrices,
    blocks_by_time,
    token_pictures,
)
from eval.inside.findings import findings_folder, write_findings
from eval.inside.masks import is_pixels
from eval.inside.model import (
    Condition,
    ForwardOptions,
    TrainedModel,
    capture_tokens,
    check_times,
    choose_rows,
    collect,
    open_run,
)
from eval.inside.representations import Neighbourhood, cka, cka_matrix, cknna, mutual_knn

NAME = "similarity"
FRAMES_SHOWN = 4  # of a clip, in the pictures of principal components
PartName = Literal["cosine", "cka", "neighbours", "encoder", "gradients", "drop", "noise", "pca"]


@dataclass(frozen=True)
class MeasureOptions:
    """Options of comparing representations.

    debiased    CKA by the unbiased HSIC; the plain one is too high where tokens are about as wide as there are rows
    neighbours  k of mutual k-NN and CKNNA
    """

    debiased: bool = True
    neighbours: int = 10

    def __post_init__(self) -> None:
        if self.neighbours < 2:
            raise ValueError(f"measures.neighbours is {self.neighbours}; it must be at least 2")


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
    """The run whose blocks are compared, and how they are.

    run        the run's folder
    parts      what to compute; encoder only with `encoder`
    t          flow times, 0 noise to 1 data
    condition  unconditional; own: each row's own, so that the blocks are given the class; requested: made up
    encoder    .npy or .npz with a row for each row of the data set, dinov2:<folder> for images, or null
    num        rows of the data set
    shown      rows of the pictures of principal components
    data       keys of the run's data node to change
    seed       of rows, noise and posterior
    out        output folder; null: <run>/inside
    """

    run: str
    checkpoint: str | None = None
    weights: str = "ema"
    device: str = "auto"
    precision: Precision = "fp32"
    parts: list[PartName]
    t: list[float]
    condition: Condition = "unconditional"
    encoder: str | None = None
    num: int = 512
    shown: int = 6
    data: dict
    seed: int = 0
    batch_size: int = 64
    measures: MeasureOptions = field(default_factory=MeasureOptions)
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_times(self.t)
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts is {self.parts}; it must name each part once, of {', '.join(get_args(PartName))}")
        if ("encoder" in self.parts) and self.encoder is None:
            raise ValueError("parts holds 'encoder' but encoder is null; give encoder=<file>, or leave it out")
        for name in ("num", "shown", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        least = 1 + self.measures.neighbours if {"neighbours", "encoder"} & set(self.parts) else 4
        if self.num < least and {"cka", "neighbours", "encoder"} & set(self.parts):
            raise ValueError(f"num is {self.num}; these parts compare at least {max(4, least)} rows")


@dataclass
class Study:
    """One call of the entry: the opened run, the rows, and pooled tokens that several parts share."""

    config: SimilarityConfig
    model: TrainedModel
    rows: list[int]
    folder: Path
    figures: list[Path] = field(default_factory=list)
    _pooled: dict[float, list[Tensor]] | None = None

    @property
    def forward(self) -> ForwardOptions:
        """Options of the forward passes."""
        config = self.config
        return ForwardOptions(config.seed, config.batch_size, config.condition, config.precision)

    @property
    def pairs(self) -> Pairs:
        """Aligned pairs of the run that are given by block numbers."""
        pairs = getattr(self.model.alignment, "pairs", [])
        return [tuple(pair) for pair in pairs if all(isinstance(block, int) for block in pair)]

    def pooled(self) -> dict[float, list[Tensor]]:
        """Mean-pooled tokens (n, D) of every block at each time; computed once."""
        if self._pooled is None:
            self._pooled = pooled_tokens(self.model, self.rows, self.config.t, self.forward)
        return self._pooled

    def title(self, what: str) -> str:
        """A figure's title: what it shows, and of which weights."""
        facts = self.model.facts
        return f"{what}\n{facts['run']}, step {facts['step']}, {facts['weights']} weights"

    def matrices(self, name: str, what: str, matrices: Mapping[float, Tensor], scale: Range) -> None:
        """Draw matrices (K, K) by time."""
        file = self.folder / f"{name}.png"
        self.figures.append(block_matrices(file, self.title(what), matrices, scale, self.pairs))

    def by_time(self, name: str, what: str, values: Mapping[float, Tensor], scale: Range) -> None:
        """Draw values (K,) by time."""
        self.figures.append(blocks_by_time(self.folder / f"{name}.png", self.title(what), values, scale))


def study_cosine(study: Study) -> dict[str, Any]:
    """Mean token cosine (K, K) between blocks, by time."""
    found = cosine_matrices(study.model, study.rows, study.config.t, study.forward)
    lowest = min(float(each.min()) for each in found.values())
    scale = Range("mean token cosine", -1 if lowest < 0 else 0, 1, DIVERGING if lowest < 0 else "viridis")
    study.matrices("cosine", "Cosine of the same token after two blocks", found, scale)
    return {"cosine": found}


def study_cka(study: Study) -> dict[str, Any]:
    """Linear CKA (K, K) of pooled tokens, by time."""
    debiased = study.config.measures.debiased
    found = {t: cka_matrix(blocks, debiased=debiased) for t, blocks in study.pooled().items()}
    kind = "Debiased linear CKA" if debiased else "Linear CKA"
    study.matrices("cka", f"{kind} of mean-pooled tokens, n = {len(study.rows)}", found, Range("CKA", 0, 1))
    return {"cka": found}


def study_neighbours(study: Study) -> dict[str, Any]:
    """Mutual k-NN and CKNNA (K, K) of pooled tokens, by time."""
    k, found = study.config.measures.neighbours, {}
    near = {t: [Neighbourhood(x, k) for x in blocks] for t, blocks in study.pooled().items()}
    for name, what in (("mutual_knn", "Mutual k-NN"), ("cknna", "CKNNA")):
        measure = getattr(Neighbourhood, name)
        found[name] = {t: pairwise(blocks, measure) for t, blocks in near.items()}
        title = f"{what} of mean-pooled tokens, k = {k}, n = {len(study.rows)}"
        study.matrices(name, title, found[name], Range(what, 0, 1))
    return found


def pairwise(blocks: Sequence[Neighbourhood], measure: Callable[[Neighbourhood, Neighbourhood], float]) -> Tensor:
    """A symmetric measure (K, K) of all pairs of blocks."""
    out = torch.zeros(len(blocks), len(blocks), dtype=torch.float64)
    for i, a in enumerate(blocks):
        for j in range(i, len(blocks)):
            out[i, j] = out[j, i] = measure(a, blocks[j])
    return out


def study_encoder(study: Study) -> dict[str, Any]:
    """CKA, mutual k-NN and CKNNA (K,) of pooled tokens with an external encoder's features, by time."""
    options = study.config.measures
    target = encoder_features(study.model, study.rows, study.config.encoder, study.forward)
    measures: dict[str, Callable[[Tensor], float]] = {
        "cka": lambda x: cka(x, target, debiased=options.debiased),
        "mutual_knn": lambda x: mutual_knn(x, target, options.neighbours),
        "cknna": lambda x: cknna(x, target, options.neighbours),
    }
    found: dict[str, Any] = {}
    for name, measure in measures.items():
        found[name] = {t: torch.tensor([measure(x) for x in blocks]) for t, blocks in study.pooled().items()}
        what = f"{name.replace('_', ' ')} with {study.config.encoder}, n = {len(study.rows)}"
        study.by_time(f"encoder_{name}", what, found[name], Range(name.replace("_", " ")))
    return found


def study_gradients(study: Study) -> dict[str, Any]:
    """Gradient norms (K,) of the training loss and its parts."""
    found = gradient_norms(study.model, study.rows, study.model.facts.get("step") or 0, study.forward)
    lines = {name: found[name].tolist() for name in ("flow", "total", "alignment") if name in found}
    file = study.folder / "gradients.png"
    title = study.title(f"Gradient norm of each block, mean loss of {len(study.rows)} rows")
    study.figures.append(block_curves(file, title, lines, "L2 norm", dashed="total"))
    return found


def study_drop(study: Study) -> dict[str, Any]:
    """Effect of leaving out each block, by time."""
    found = drop_effects(study.model, study.rows, study.config.t, study.forward)
    study.by_time("drop_loss", "Flow loss without one block", found["loss_change"], Range("increase of the flow loss"))
    study.by_time("drop_output", "Output without one block", found["output"], Range("relative change of the output"))
    return found


def study_noise(study: Study) -> dict[str, Any]:
    """Cosine (K,) of tokens with those of the clean sample, by time."""
    found = noise_robustness(study.model, study.rows, study.config.t, study.forward)
    study.by_time("noise", "Cosine of a block's tokens with those at t = 1", found, Range("mean token cosine"))
    return {"cosine_to_clean": found}


def study_pca(study: Study) -> dict[str, Any]:
    """Pictures of the first principal components; the share of variance (K, 3) that they hold, by time."""
    rows, found = study.rows[: study.config.shown], {}
    for t in study.config.t:
        tokens, _ = collect(study.model, rows, t, study.forward, pooled=False)
        colours, found[float(t)] = principal_colours(tokens)
        layout = np.stack([on_grid(each, study.model.grid) for each in colours])
        inputs = input_pictures(study.model, rows, t, study.forward)
        inputs = inputs if len(inputs) == layout.shape[1] else [None] * layout.shape[1]
        file = study.folder / f"pca_t{t:.2f}.png"
        title = study.title(f"First three principal components of the tokens, t = {t:g}")
        study.figures.append(token_pictures(file, title, inputs, layout))
    return {"explained_variance": found}


def on_grid(colours: Tensor, grid: tuple[int, ...]) -> np.ndarray:
    """Colours (n, N, 3) as pictures (n, rows, columns, 3).

    Of a grid of three axes there are pictures (n m, rows, columns, 3) of m of its frames, `frames_shown`; one axis, or
    a grid that does not hold N tokens, is a strip.
    """
    if colours.shape[1] != int(np.prod(grid)) or len(grid) not in (2, 3):
        return rearrange(colours, "n t c -> n 1 t c").numpy()
    colours = rearrange(colours, "n (f y x) c -> n f y x c", y=grid[-2], x=grid[-1])
    frames = frames_shown(colours.shape[1])
    return rearrange(colours[:, frames], "n f y x c -> (n f) y x c").numpy()


def frames_shown(count: int, of: int | None = None) -> list[int]:
    """Numbers of at most 4 of `count` frames of tokens, from first to last; or their frames among `of` of the media."""
    numbers = np.linspace(0, count - 1, min(FRAMES_SHOWN, count)).round()
    return (numbers if of is None else ((numbers + 0.5) * of / count).clip(0, of - 1)).astype(int).tolist()


@torch.no_grad()
def input_pictures(model: TrainedModel, rows: list[int], t: float, forward: ForwardOptions) -> list[np.ndarray | None]:
    """The decoded input of the backbone at time t: (Y, X) or (Y, X, 3) in [0, 1]; None where media are no pictures.

    Of a clip the frames in the middle of those that stand for the tokens that are shown, one after the other.
    """
    if not is_pixels(model.domain.dataset.media_shape):
        return [None] * len(rows)
    decoded = torch.cat(
        [model.domain.tokenizer.decode(captured.x_t).cpu() for captured in capture_tokens(model, rows, [t], forward)]
    )
    if decoded.ndim == 5:
        frames = frames_shown(model.grid[0], decoded.shape[2])
        decoded = rearrange(decoded[:, :, frames], "b c f y x -> (b f) c y x")
    images = rearrange(to_uint8(decoded), "b c y x -> b y x c").numpy() / 255
    return [image[..., 0] if image.shape[-1] == 1 else image for image in images]


PARTS: dict[str, Callable[[Study], dict[str, Any]]] = {
    "cosine": study_cosine,
    "cka": study_cka,
    "neighbours": study_neighbours,
    "encoder": study_encoder,
    "gradients": study_gradients,
    "drop": study_drop,
    "noise": study_noise,
    "pca": study_pca,
}


def main(config: SimilarityConfig) -> None:
    """Compare the blocks of a run with each other, with clean and noisy inputs and with an external encoder.

    Writes <run>/inside/similarity.json and figures beside it. parts=[cosine,cka] computes those two only.
    """
    folder = findings_folder(config.run, config.out, NAME, config.overwrite)
    opened = {"checkpoint": config.checkpoint, "data": config.data}
    model = open_run(config.run, config.weights, config.device, **opened)
    study = Study(config, model, choose_rows(model.domain.dataset, config.num, config.seed), folder)
    results: dict[str, Any] = {"num": len(study.rows)}
    for name in tqdm(config.parts, desc="looking inside", unit="part"):
        results[name] = PARTS[name](study)
    file = write_findings(folder, NAME, model, config, results)
    print(f"numbers    {RunDirectory(file).shown()}")
    for figure in study.figures:
        print(f"figure     {RunDirectory(figure).shown()}")


ENTRY = Entry(main, "eval.conf", NAME, SimilarityConfig)

if __name__ == "__main__":
    ENTRY.run()
