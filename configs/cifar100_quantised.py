"""A Wide ResNet of few bits taught by a float one, on CIFAR-100; configs/quantised.py has the digits.

python launch.py --config=configs/cifar100_quantised.py[:BITS,synthetic,tiny]

w4         kernels of 4 bits from the first step (the default), w2 of 2, w8 of 8
synthetic  made images in place of CIFAR-100, on any machine: the recipe runs, its numbers mean nothing
tiny       a few steps on a few images: does everything work?

Polino, Pascanu, Alistarh, "Model compression via distillation and quantization", 2018, arXiv 1802.05668, quantised
distillation. Read from the authors' code (antspy/quantized_distillation @bb500b7, cifar100_test.py, the fourth student,
and cnn_models): Wide ResNet 28-20 to 16-10, both with dropout 0.3; 200 epochs, batch 110, SGD at 0.1 with Nesterov,
x0.2 after 60, 120 and 160, weight decay 5e-4, crops with padding 4 and flips; 0.3 CE + 0.7 KD at T 2, where their KL is
a mean over the 100 classes as well: 0.007 KD here. The gradient goes to float weights as if nothing were rounded.
Of the paper, from memory and checked against no source here: 76.31 with 4 bits, teacher 77.21 of 36.5 M parameters,
which is the size of a 28-10: --config.teacher.model.kwargs.widen=10, a quarter of the cost.

Deviations: they round all parameters but the first and the last one, in buckets of 256 from the smallest to the largest
value; we round kernels, symmetrically, a step for each output channel, the one of least squared error, and those of the
stem and the head to no less than 8 bits. Beside the student: the same bits without a teacher, the float student and the
float student rounded afterwards. 2 % of the training images are held out to choose the best epoch.
Cost, estimated, since we did not run it at full size: a 28-20 has 146 M parameters and its 89,000 steps take days on a
GPU, the students a day more.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, on_images, parse, part, response, training

BITS = {"w4": 4, "w2": 2, "w8": 8}
NETWORK = "models.vision.wide_resnet.WideResNet"


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=tuple(BITS), flags=("synthetic",))
    bits = BITS[variant.variant]
    on_images(config, variant, f"Quantised distillation, {bits} bits: Wide ResNet 28-20 to 16-10", "cifar100")
    config.teacher.model = dict(name=NETWORK, kwargs=dict(depth=28, widen=20, dropout=0.3))
    config.student.model = dict(name=NETWORK, kwargs=dict(depth=16, widen=10, dropout=0.3))
    step = dict(schedule="step", learning_rate=0.1, boundaries=(0.3, 0.6, 0.8), decay=0.2, kwargs=dict(nesterov=True))
    config.train = training(batch_size=110, epochs=200.0, augment=("pad_crop", "flip"), optimizer=step)
    config.teacher.train = config.train.copy_and_resolve_references()
    config.terms = ConfigDict(response(0.7 / 100, temperature=2.0, ce=0.3))
    config.scheme = ConfigDict(part("schemes.quantised.build", bits=(bits,), keep="(stem|head)/kernel"))
    config.baseline = False  # the scheme has the float student, taught, and the rounded one without a teacher
    return finish(config, variant)
