"""The metrics of clips, and what is measured by default; a metric's name carries the evaluator's: i3d/fvd.

FVD is the Fréchet distance with covariances that are divided by n, as the code of StyleGAN-V and of cd-fvd has them;
the FID of frames divides by n - 1.
"""

from __future__ import annotations

from eval.measure.metrics import FrechetDistance, KernelDistance, NeighbourPrecision, NeighbourRecall
from eval.measure.stand_in import stand_in_metrics
from eval.measure.table import Table, of_each
from video.media import UNIT
from video.stand_in import ASPECTS

CLIPS = ("i3d", "i3d_cdfvd", "videomae")
ANY = (*CLIPS, "inception", "digits")

SEVERAL = of_each(
    FrechetDistance("fvd", CLIPS, covariance="biased"),
    NeighbourPrecision("precision", ANY),
    NeighbourRecall("recall", ANY),
    KernelDistance("kvd", ANY),  # 100 subsets of 1000, as KID
)
TABLE = Table(
    metrics=(
        *SEVERAL,
        FrechetDistance("frame_fid", ("inception",), beside=True, covariance="unbiased"),
        *stand_in_metrics("digits", "run=..., or arr_1", ASPECTS),
    ),
    defaults={
        **{name: (f"{name}/fvd",) for name in CLIPS},
        "inception": ("frame_fid",),
        "digits": ("frechet_distance", "class_accuracy", "digit_accuracy", "direction_accuracy"),
    },
    unit=UNIT,
)
