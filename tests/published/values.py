"""What the authors of published methods set on the 13 pairs of CIFAR-100, as read in their repositories.

Written down apart from kd_jax/config/pairs.py, so that the two are compared. Pairs in this order; "-" is not given:
wrn40-2 > wrn16-2, wrn40-1; resnet56 > 20; resnet110 > 20, 32; resnet32x4 > 8x4; vgg13 > vgg8, MobileNetV2;
ResNet50 > MobileNetV2, vgg8; resnet32x4 > ShuffleNetV1, V2; wrn40-2 > ShuffleNetV1.
"""

PAIRS = (
    "wrn40-2-wrn16-2 wrn40-2-wrn40-1 resnet56-resnet20 resnet110-resnet20 resnet110-resnet32 resnet32x4-resnet8x4 "
    "vgg13-vgg8 vgg13-MobileNetV2 ResNet50-MobileNetV2 ResNet50-vgg8 resnet32x4-ShuffleNetV1 resnet32x4-ShuffleNetV2 "
    "wrn40-2-ShuffleNetV1"
).split()

# (method, what of its terms, row, source)
ROWS = [
    ("dkd", "kd.kwargs.beta", "6 6 2 - 2 8 6 6 8 - 8 8 8", "mdistiller @a08d46f configs/cifar100/dkd"),
    ("review_kd", "review.weight", "5 5 .6 - 1 5 - - - - 5 8 5", "ReviewKD @cede6ea CIFAR-100/script/reviewKD.sh"),
    ("cat_kd", "cat.weight", "12 1.5 .7 - 1.8 15 4.5 15 40 - 600 600 80", "CAT-KD @4467073 configs/cifar100/CAT_KD"),
    ("cat_kd", "cat.kwargs.normalize", "0 0 0 - 0 0 0 1 1 - 1 1 1", "CAT-KD @4467073 IF_NORMALIZE"),
    ("cat_kd", "cat.kwargs.resolution", "2 2 2 - 2 2 2 2 2 - 4 4 4", "CAT-KD @4467073 CAM_RESOLUTION"),
    ("lskd", "kd.kwargs.temperature", "2 2 2 4 2 2 3 3 3 - - 2 -", "logit-standardization-KD @f6e5aa5 logs/KD"),
    ("lskd", "kd.weight", "9 9 9 12 9 9 9 9 1 - - 9 -", "logit-standardization-KD @f6e5aa5 logs/KD"),
    ("itrd", "itrd.kwargs.correlation", "2 - - - - - - - - - - - -", "ITRD @5d08c6b README.md"),
    ("itrd", "itrd.kwargs.mutual", "1 - - - - - - - - - - - -", "ITRD @5d08c6b README.md"),
    ("itrd", "itrd.kwargs.alpha", "1.01 - - - - - - - - - - - -", "ITRD @5d08c6b README.md"),
    ("semckd", "semckd.weight", "- - - - - 400 - - - - - - -", "SimKD @2b389c3 scripts/run_distill.sh"),
]
# The pair whose options a preset has where a pair has none of its own, if that is not resnet32x4-resnet8x4.
FIRST_PAIR = {"itrd": "wrn40-2-wrn16-2"}

# One value for every pair: RepDistiller @b84f547 scripts/run_cifar_distill.sh, mdistiller @a08d46f engine/cfg.py;
# DIST_KD @2418f18, CTKD @7d52522, TTM @fe457b3, ICKD @403b8d3, SimKD @2b389c3 from their README and scripts.
EVERYWHERE = {
    "kd": {"ce.weight": 0.1, "kd.weight": 0.9, "kd.kwargs.temperature": 4.0},
    "fitnet": {"ce.weight": 1.0, "hint.weight": 100.0},
    "sp": {"sp.weight": 3000.0},
    "cc": {"embed.weight": 0.02},
    "rkd": {"rkd.weight": 1.0, "rkd.kwargs.distance_weight": 25.0, "rkd.kwargs.angle_weight": 50.0},
    "pkt": {"pkt.weight": 30000.0},
    "ft": {"ft.weight": 200.0},
    "crd": {"embed.weight": 0.8, "embed.kwargs.negatives": 16384, "embed.kwargs.temperature": 0.07},
    "dkd": {"ce.weight": 1.0, "kd.weight": 1.0, "kd.kwargs.alpha": 1.0, "kd.kwargs.temperature": 4.0},
    "dist": {"ce.weight": 1.0, "kd.weight": 2.0, "kd.kwargs.beta": 1.0, "kd.kwargs.temperature": 4.0},
    "lskd": {"ce.weight": 0.1},
    "ctkd": {"ce.weight": 0.1, "kd.weight": 0.9, "kd.connector.kwargs.first": 1.0},
    "ttm": {"kd.weight": 45.0, "kd.kwargs.gamma": 0.1},
    "wttm": {"kd.weight": 4.0, "kd.kwargs.gamma": 0.2},
    "ickd": {"ickd.weight": 2.5, "ickd.connector.kwargs.norm": True},
    "simkd": {"simkd.weight": 1.0},
    "itrd": {"ce.weight": 1.0, "itrd.weight": 1.0},
    "semckd": {"ce.weight": 1.0, "kd.weight": 1.0, "kd.kwargs.temperature": 4.0},
}
# On every stage, the last with the whole weight: AB 3/1000 and OFD 1/1000, half as much a stage earlier.
STAGES = {"at": (1000.0, 1.0), "nst": (50.0, 1.0), "vid": (1.0, 1.0), "ab": (0.003, 0.5), "ofd": (0.001, 0.5)}

# ImageNet, ResNet34 -> ResNet18: mdistiller configs/imagenet, cls_KD, MGD, LSKD, CTKD, CAT-KD, DIST_KD.
IMAGENET = {
    "kd": {"ce.weight": 0.5, "kd.weight": 0.5, "kd.kwargs.temperature": 1.0},
    "dkd": {"ce.weight": 1.0, "kd.kwargs.beta": 0.5, "kd.kwargs.temperature": 1.0, "kd.schedule.name": ""},
    "review_kd": {"review.weight": 1.0, "review.schedule.name": ""},
    "mgd": {"mgd.weight": 7e-5},
    "nkd": {"kd.kwargs.gamma": 1.5, "kd.kwargs.temperature": 1.0},
    "wsld": {"kd.weight": 2.5, "kd.kwargs.temperature": 2.0},
    "lskd": {"ce.weight": 1.0, "kd.weight": 9.0, "kd.kwargs.temperature": 2.0},
    "ctkd": {"ce.weight": 1.0, "kd.weight": 1.0},
    "cat_kd": {"cat.weight": 0.5, "cat.kwargs.normalize": False, "cat.kwargs.resolution": 4},
    "semckd": {"ce.weight": 1.0, "kd.weight": 1.0, "semckd.weight": 50.0, "semckd.connector.kwargs.stages": 4},
    "crd": {"embed.weight": 0.8, "embed.kwargs.negatives": 16384},
    "dist": {"kd.weight": 2.0, "kd.kwargs.temperature": 1.0},
}

# ImageNet, ResNet50 -> MobileNetV1: mdistiller configs/imagenet/r50_mv1.
IMAGENET_MOBILE = {
    "kd": {"ce.weight": 0.5, "kd.weight": 0.5, "kd.kwargs.temperature": 1.0},
    "at": {"at_stage4.weight": 1000.0},
    "dkd": {"kd.kwargs.beta": 2.0, "kd.kwargs.temperature": 1.0},
    "review_kd": {"review.weight": 8.0},
    "ofd": {"ofd_stage4.weight": 1e-4},
    "crd": {"embed.weight": 0.8, "embed.kwargs.negatives": 16384},
    "dist": {"kd.weight": 2.0, "kd.kwargs.temperature": 1.0},
}

# Test accuracies by authors other than RepDistiller's, where the preset has the recipe of the number. In the order of
# PAIRS; "-" is no number, or one of another recipe (MLKD's views, SRRL beside KD, TTM on other pairs).
SCORES = [
    ("dkd", "76.23 74.81 71.97 - 74.11 76.32 74.68 69.71 70.35 - 76.45 77.07 76.70", "mdistiller @a08d46f README.md"),
    ("lskd", "76.11 74.37 71.43 71.48 74.17 76.62 74.36 68.61 69.02 - - 75.56 -", "logit-standardization-KD README.md"),
    ("dist", "- - - - - 76.31 - - - - - - -", "DIST_KD README.md"),
    ("ctkd", "- - 71.19 - - - - - - - - - -", "CTKD README.md; its script is of this pair alone"),
    ("review_kd", "76.12 75.09 71.89 - 73.89 75.63 - - - - 77.45 77.78 77.14", "ITRD @5d08c6b README.md, row ReviewKD"),
    ("itrd", "76.12 - - - - - - - - - - - -", "ITRD @5d08c6b README.md; its command is of this pair alone"),
    ("semckd", "- - - - - 76.23 - - - - - - -", "SimKD @2b389c3 README.md"),
    ("simkd", "- - - - - 78.08 - - - - - - -", "SimKD @2b389c3 README.md, f=2"),
    ("crd", "75.48 74.14 71.16 71.46 73.48 75.51 73.94 69.73 69.11 74.30 75.11 75.65 76.05", "RepDistiller README.md"),
    ("ft", "73.25 71.59 69.84 70.22 72.37 72.86 70.58 61.78 60.99 70.29 71.75 72.50 72.03", "RepDistiller README.md"),
]
