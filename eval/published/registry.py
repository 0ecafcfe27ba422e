"""Which published weights are used, where they come from, and under which terms: data, no code that acts.

A SHA-256 or a size stands here only where public records agree on it; None means unknown: it is recorded when the file
is first imported, and what was recorded is trusted from then on. A hash may be its first digits, as torch.hub puts them
into a file's name.
"""

from __future__ import annotations

from eval.published.entry import HUB, HubFile, WeightsEntry, WeightsFile, hub_files, shards
from eval.published.registry_of_motion import MOTION

AUTOENCODER = "diffusion_pytorch_model.safetensors"
SD_VAE_BYTES = 334_643_276
SD_VAE_EMA = ("stabilityai/sd-vae-ft-ema", "f04b2c4b98319346dad8c65879f680b1997b204a")
SD_VAE_MSE = ("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493")
STABLE_AUDIO = ("stabilityai/stable-audio-open-1.0", "f21265c1e2710b3bd2386596943f0007f55f802e")
DINO_LARGE = ("facebook/dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c")
DINO = ("facebook/dinov2-base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415")
WAN = ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "0fad780a534b6463e45facd96134c9f345acfa5b")
WAN_VAE: tuple[HubFile, ...] = (
    ("config.json", "f0c1cc1d7decb5badc384f54691746a27a9aeff49f7ebca974e583389342d527", 724),
    (AUTOENCODER, "d6e524b3fffede1787a74e81b30976dce5400c4439ba64222168e607ed19e793", 507_591_892),
)
WAN_FILES: tuple[HubFile, ...] = (
    ("model_index.json", "b8b28e022329acf975e027579a1d2dc3de44dba28f4c909b98a880fbf5b0de7d", 400),
    ("scheduler/scheduler_config.json", "3fed2abbd9bbc301a74db01947198057ec5049808910dccab320925bf27bea6e", 751),
    ("tokenizer/special_tokens_map.json", "456b58fd240a06c743a7c2cf8008bec501240d68ebd1fc4018ea569505fea270", 7079),
    ("tokenizer/spiece.model", "e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458", 4_548_313),
    ("tokenizer/tokenizer.json", "20a46ac256746594ed7e1e3ef733b83fbc5a6f0922aa7480eda961743de080ef", 16_837_459),
    ("tokenizer/tokenizer_config.json", "1d8d2a216bf8e70ac15b7ddcea566c4dd0433c024b39a58ca5e4c66bd78defbd", 61_758),
    ("text_encoder/config.json", "4087b6192155a4643f6d29fd326c4610103130674011ef4d0a53f8bce5de967d", 854),
    *shards(
        "text_encoder/model",
        [
            ("c0ef3a140898e228a3520c9adec60743d2e8e5b3d229651bb37f1a3921919f99", 4_972_389_712),
            ("481c7b2b39771c44df6dd8d13ee12ed072d731b4a650bd092885d4d52db229ad", 4_899_225_672),
            ("f93148bcc04052a169e1e49bfcf6125df6cf9bf243cb9c627da75266cf8e35c3", 4_966_309_504),
            ("a451792c739c05bca4606190cc2dd16731411bac03b4cf6aacc5767321f857c9", 4_999_880_704),
            ("7e76e18d224531b8197a46231cb53daf7f2f6ca707130252becf933026ac4eea", 2_885_866_152),
        ],
    ),
    (
        "text_encoder/model.safetensors.index.json",
        "8af791f24a6447aa30c95786f40adf23d3c9df97470d2f36159c8f1113f120b4",
        22_476,
    ),
    ("transformer/config.json", "0b093fa072e9ff28763febe9b964ee582f566733a6d6709deb9dfba1bde16b81", 465),
    *shards(
        "transformer/diffusion_pytorch_model",
        [
            ("6d011927dbd2cc8afe53d57abab04a8fd86f615d83324770d985fb058ece3a24", 4_998_781_576),
            ("b92ec2309b1f239af6f746431815a881afcc938abb26a4f08d9a2fd6c892f872", 677_289_072),
        ],
    ),
    (
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "dcbcf3497134a3f50557ff069dd7d2c84b5c4d8c5932472f6bdb780fb4016589",
        73_296,
    ),
    *((f"vae/{path}", sha256, size) for path, sha256, size in WAN_VAE),
)

REGISTRY: tuple[WeightsEntry, ...] = (
    WeightsEntry(
        name="inception",
        title="Inception-v3 of 2015-12-05, as torch-fidelity converted it",
        kind="file",
        files=(
            WeightsFile(
                "weights-inception-2015-12-05-6726825d.pth",
                "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
                "weights-inception-2015-12-05-6726825d.pth",
                "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
                95_628_359,
            ),
        ),
        licence="Apache-2.0",
        used_by="FID, sFID, IS, precision and recall of images",
        origin="https://github.com/toshas/torch-fidelity",
        notes="converted from TensorFlow's inception-2015-12-05.tgz, which the ADM suite also reads",
    ),
    WeightsEntry(
        name="adm-imagenet256",
        title="ADM reference batch of ImageNet 256: moments of the training set, 10,000 images",
        kind="file",
        files=(
            WeightsFile(
                "VIRTUAL_imagenet256_labeled.npz",
                "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
                "VIRTUAL_imagenet256_labeled.npz",
            ),
        ),
        licence="code MIT; statistics and images of ImageNet, whose terms allow non-commercial research",
        used_by="FID, sFID, precision and recall of images against ImageNet 256",
        origin="https://github.com/openai/guided-diffusion/tree/main/evaluations",
        notes="reference statistics, not weights",
    ),
    WeightsEntry(
        name="dinov2",
        title="DINOv2 ViT-B/14, transformers format",
        kind="directory",
        files=hub_files(
            *DINO,
            [
                ("config.json", "f7ff4cfa73d2f70647dbf6950541ad25d73082d54c2e7e9bded160c7656b2a70", None),
                ("preprocessor_config.json", None, None),
                ("model.safetensors", "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841", 346_345_912),
            ],
        ),
        licence="Apache-2.0",
        used_by="REPA; similarity (CKA) of representations",
        origin=f"{HUB}/{DINO[0]}",
        repository=DINO[0],
        revision=DINO[1],
    ),
    WeightsEntry(
        name="dinov2-large",
        title="DINOv2 ViT-L/14, transformers format",
        kind="directory",
        files=hub_files(
            *DINO_LARGE,
            [
                ("config.json", None, None),
                ("preprocessor_config.json", None, None),
                (
                    "model.safetensors",
                    "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
                    1_217_522_888,
                ),
            ],
        ),
        licence="Apache-2.0",
        used_by="FD-DINOv2 of images",
        origin=f"{HUB}/{DINO_LARGE[0]}",
        repository=DINO_LARGE[0],
        revision=DINO_LARGE[1],
    ),
    WeightsEntry(
        name="clap-music",
        title="LAION CLAP for music (HTSAT-base, no fusion), fadtk's clap-laion-music",
        kind="file",
        files=(
            WeightsFile(
                "music_audioset_epoch_15_esc_90.14.pt",
                f"{HUB}/lukewys/laion_clap/resolve/main/music_audioset_epoch_15_esc_90.14.pt",
                "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
                2_352_471_003,
            ),
        ),
        licence="CC0-1.0",
        used_by="FAD of music",
        origin=f"{HUB}/lukewys/laion_clap",
    ),
    WeightsEntry(
        name="clap-audio",
        title="LAION CLAP for audio (HTSAT-tiny, no fusion), fadtk's clap-laion-audio",
        kind="file",
        files=(WeightsFile("630k-audioset-best.pt", f"{HUB}/lukewys/laion_clap/resolve/main/630k-audioset-best.pt"),),
        licence="CC0-1.0",
        used_by="FAD of general audio",
        origin=f"{HUB}/lukewys/laion_clap",
    ),
    WeightsEntry(
        name="ms-clap",
        title="Microsoft's CLAP of 2023 (HTSAT-tiny, 1024 features), fadtk's clap-2023",
        kind="file",
        files=(WeightsFile("CLAP_weights_2023.pth", f"{HUB}/microsoft/msclap/resolve/main/CLAP_weights_2023.pth"),),
        licence="code MIT; of the weights see the page",
        used_by="FAD, beside LAION's",
        origin=f"{HUB}/microsoft/msclap",
    ),
    WeightsEntry(
        name="vggish",
        title="VGGish, as torchvggish converted it",
        kind="file",
        files=(
            WeightsFile(
                "vggish-10086976.pth",
                "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
                "10086976",
            ),
        ),
        licence="Apache-2.0",
        used_by="FAD as in older papers",
        origin="https://github.com/harritaylor/torchvggish",
        notes="differs numerically from Google's TensorFlow checkpoint: never mix the two in one table",
    ),
    WeightsEntry(
        name="i3d",
        title="I3D of Kinetics-400, TorchScript, the detector of StyleGAN-V",
        kind="file",
        files=(
            WeightsFile(
                "i3d_torchscript.pt",
                "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
                "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
                51_235_320,
            ),
        ),
        licence="not stated for this file; the original I3D weights are Apache-2.0",
        used_by="FVD as StyleGAN-V and Latte define it",
        origin="https://github.com/universome/stylegan-v",
        notes="TorchScript is code that runs when it is loaded: only a file with this hash is taken",
    ),
    WeightsEntry(
        name="i3d-tats",
        title="I3D of Kinetics-400, state dict with 400 logits, of TATS",
        kind="file",
        files=(
            WeightsFile(
                "i3d_pretrained_400.pt",
                "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
            ),
        ),
        licence="not stated for this file; the original I3D weights are Apache-2.0",
        used_by="FVD as cd-fvd defines it",
        origin="https://github.com/songweige/TATS",
    ),
    WeightsEntry(
        name="videomae-g-ssv2",
        title="VideoMAE v2 ViT-g, fine-tuned on Something-Something v2, as published",
        kind="file",
        files=(
            WeightsFile(
                "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
                f"{HUB}/OpenGVLab/InternVideoMAE_models/resolve/main/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
            ),
        ),
        licence="not stated for this file; the code of VideoMAE v2 is MIT",
        used_by="FVD in features of VideoMAE, as cd-fvd defines it",
        origin=f"{HUB}/OpenGVLab/InternVideoMAE_models",
    ),
    *MOTION,
    WeightsEntry(
        name="sd-vae-ema",
        title="SD-VAE ft-EMA, diffusers format",
        kind="directory",
        files=hub_files(*SD_VAE_EMA, [("config.json", None, None), (AUTOENCODER, None, SD_VAE_BYTES)]),
        licence="MIT",
        used_by="latents of images, as SiT and LayerSync publish them: tokenizer.path=DIR",
        origin=f"{HUB}/{SD_VAE_EMA[0]}",
        repository=SD_VAE_EMA[0],
        revision=SD_VAE_EMA[1],
    ),
    WeightsEntry(
        name="sd-vae-mse",
        title="SD-VAE ft-MSE, diffusers format",
        kind="directory",
        files=hub_files(
            *SD_VAE_MSE,
            [
                ("config.json", "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e", None),
                (AUTOENCODER, "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815", SD_VAE_BYTES),
            ],
        ),
        licence="MIT",
        used_by="latents of images with the other decoder",
        origin=f"{HUB}/{SD_VAE_MSE[0]}",
        repository=SD_VAE_MSE[0],
        revision=SD_VAE_MSE[1],
    ),
    WeightsEntry(
        name="stable-audio-vae",
        title="VAE of Stable Audio Open 1.0, diffusers format",
        kind="directory",
        files=hub_files(
            *STABLE_AUDIO,
            [
                ("config.json", "858b6cce27aa1b2d1e8d331734d2d9690d9ea1dad2fb1e6bd23ee67a61058ad9", None),
                (AUTOENCODER, "2131cdb52020b2473707465449d8bdb4f6cca61c93150a947baca02bc58ffd7b", None),
            ],
            subfolder="vae/",
        ),
        licence="Stability AI Community License",
        used_by="latents of audio",
        origin=f"{HUB}/{STABLE_AUDIO[0]}",
        notes="gated: agree to the licence on the page, then set HF_TOKEN",
        repository=STABLE_AUDIO[0],
        revision=STABLE_AUDIO[1],
        gated=True,
    ),
    WeightsEntry(
        name="wan-vae",
        title="VAE of Wan 2.1, diffusers format",
        kind="directory",
        files=hub_files(*WAN, WAN_VAE, subfolder="vae/"),
        licence="Apache-2.0",
        used_by="latents of video",
        origin=f"{HUB}/{WAN[0]}",
        repository=WAN[0],
        revision=WAN[1],
    ),
    WeightsEntry(
        name="wan",
        title="Wan 2.1 text-to-video 1.3B, the whole diffusers pipeline",
        kind="directory",
        files=hub_files(*WAN, WAN_FILES),
        licence="Apache-2.0",
        used_by="LoRA fine-tuning on video",
        origin=f"{HUB}/{WAN[0]}",
        notes="most of it is the text encoder (UMT5-XXL in float32)",
        repository=WAN[0],
        revision=WAN[1],
    ),
)


def find_entry(name: str) -> WeightsEntry:
    """The entry of that name; ValueError that lists the names."""
    for entry in REGISTRY:
        if entry.name == name:
            return entry
    raise ValueError(f"no weights are named '{name}'; names: {', '.join(entry.name for entry in REGISTRY)}")
