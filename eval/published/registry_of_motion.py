"""The part of the registry that is of motion: evaluators, MDM, and the words that the evaluators know."""

from __future__ import annotations

from eval.published.entry import HUB, WeightsEntry, WeightsFile

DRIVE = "https://drive.google.com/file/d/{}/view"
MARDM = "https://github.com/neu-vi/MARDM"
MARDM_STATISTICS = "https://raw.githubusercontent.com/neu-vi/MARDM/main/utils/eval_mean_std/{}/eval_{}.npy"
MATCHING = "text_mot_match/model/finest.tar"
CONTRASTIVE = "text_mot_match_clip/model/finest.tar"
MDM_DATA = "https://raw.githubusercontent.com/GuyTevet/motion-diffusion-model/main/dataset"

MOTION: tuple[WeightsEntry, ...] = (
    WeightsEntry(
        name="t2m-evaluators",
        title="Text-to-motion evaluators of HumanML3D, with the normalisation they were trained on",
        kind="directory",
        files=(
            WeightsFile(MATCHING, DRIVE.format("1O_GUHgjDbl2tgbyfSwZOUYXDACnk25Kb"), by_hand=True),
            WeightsFile("t2m_mean.npy", f"{MDM_DATA}/t2m_mean.npy"),
            WeightsFile("t2m_std.npy", f"{MDM_DATA}/t2m_std.npy"),
        ),
        licence="code MIT; not stated for the weights, trained on HumanML3D (AMASS: non-commercial research)",
        used_by="FID, R-precision, MM-Dist, Diversity and MultiModality of motion on HumanML3D",
        origin="https://github.com/GuyTevet/motion-diffusion-model",
        notes="the Drive page holds t2m.zip: unpack it and add its folder t2m; mean and deviation are never recomputed",
    ),
    WeightsEntry(
        name="kit-evaluators",
        title="Text-to-motion evaluators of KIT-ML, with the normalisation they were trained on",
        kind="directory",
        files=(
            WeightsFile(MATCHING, DRIVE.format("12liZW5iyvoybXD8eOw4VanTgsMtynCuU"), by_hand=True),
            WeightsFile("kit_mean.npy", f"{MDM_DATA}/kit_mean.npy"),
            WeightsFile("kit_std.npy", f"{MDM_DATA}/kit_std.npy"),
        ),
        licence="code MIT; not stated for the weights, trained on KIT-ML",
        used_by="the same measures on KIT-ML",
        origin="https://github.com/GuyTevet/motion-diffusion-model",
        notes="the Drive page holds kit.zip: unpack it and add its folder kit",
    ),
    WeightsEntry(
        name="mardm-evaluators",
        title="MARDM's evaluators of HumanML3D's first 67 numbers, matching and contrastive",
        kind="directory",
        files=(
            *(
                WeightsFile(
                    path, f"{HUB}/cr8br0ze/evaluators_humanml3d/blob/main/evaluators_humanml3d.zip", by_hand=True
                )
                for path in (MATCHING, CONTRASTIVE)
            ),
            *(WeightsFile(f"eval_{part}.npy", MARDM_STATISTICS.format("t2m", part)) for part in ("mean", "std")),
        ),
        licence="MIT, as the hub's page states; trained on HumanML3D (AMASS: non-commercial research)",
        used_by="the same measures on the first 67 numbers, and a CLIP score",
        origin=MARDM,
        notes="the hub holds evaluators_humanml3d.zip: unpack it and add the folder that holds text_mot_match",
    ),
    WeightsEntry(
        name="mardm-kit-evaluators",
        title="MARDM's evaluators of KIT-ML's first 64 numbers, matching and contrastive",
        kind="directory",
        files=(
            *(
                WeightsFile(path, f"{HUB}/cr8br0ze/evaluators_kit/blob/main/evaluators_kit.zip", by_hand=True)
                for path in (MATCHING, CONTRASTIVE)
            ),
            *(WeightsFile(f"eval_{part}.npy", MARDM_STATISTICS.format("kit", part)) for part in ("mean", "std")),
        ),
        licence="not stated for the weights, trained on KIT-ML",
        used_by="the same measures on KIT-ML's first 64 numbers, and a CLIP score",
        origin=MARDM,
        notes="the hub holds evaluators_kit.zip: unpack it and add the folder that holds text_mot_match",
    ),
    WeightsEntry(
        name="mdm",
        title="MDM of HumanML3D under texts, 1000 noise levels",
        kind="file",
        files=(WeightsFile("model000475000.pt", DRIVE.format("1PE0PK8e5a5j-7-Xhs5YET5U5pGh0c821"), by_hand=True),),
        licence="code MIT; not stated for the weights, trained on HumanML3D (AMASS: non-commercial research)",
        used_by="samples beside one's own: python -m motion.sample architecture=humanml3d_mdm_1000",
        origin="https://github.com/GuyTevet/motion-diffusion-model",
        notes="the Drive page holds an archive: unpack it; it needs CLIP ViT-B/32 and HumanML3D's statistics",
    ),
    WeightsEntry(
        name="glove",
        title="GloVe vectors of the words of the text-to-motion evaluators",
        kind="directory",
        files=tuple(
            WeightsFile(path, DRIVE.format("1cmXKUT31pqd7_XpJAiWEo1K81TMYHA5n"), by_hand=True)
            for path in ("our_vab_data.npy", "our_vab_idx.pkl", "our_vab_words.pkl")
        ),
        licence="PDDL-1.0 (GloVe)",
        used_by="the text side of the text-to-motion evaluators",
        origin="https://github.com/GuyTevet/motion-diffusion-model",
        notes="the Drive page holds glove.zip: unpack it and add its folder glove",
    ),
)
