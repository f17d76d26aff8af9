"""A network as its own teacher, on CIFAR-100 with the papers' recipes; configs/self_distillation.py has the digits.

python launch.py --config=configs/cifar100_self.py[:METHOD,synthetic,tiny]

byot             the default: ResNet-18 with exits after its first three stages, which its last classifier teaches, T 3.
                 Zhang, Song, Gao, Chen, Bao, Ma, "Be Your Own Teacher", 2019, arXiv 1905.08094
born_again       three generations of a Wide ResNet 28-10, each taught by labels and by the one before, and their
                 ensemble. Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born-Again Neural Networks", 2018, arXiv
                 1805.04770
ps_kd            ResNet-18, labels softened by its own predictions of the epoch before. Kim, Ji, Yoon, Hwang,
                 "Self-Knowledge Distillation with Progressive Refinement of Targets", 2020, arXiv 2006.12000
tf_kd_reg        ResNet-18 taught by a virtual teacher, and
tf_kd_self       by itself, trained before. Yuan, Tay, Li, Wang, Feng, "Revisiting Knowledge Distillation via Label
                 Smoothing Regularization" (Tf-KD), 2019, arXiv 1909.11723
label_smoothing  their third column: 0.1
synthetic        made images in place of CIFAR-100, on any machine: the recipe runs, its numbers mean nothing
tiny             a few steps on a few images: does everything work?

ResNet-18 is torchvision's with a 3 x 3 stem and no pooling, for 32 x 32 images. All: SGD at 0.1, momentum 0.9, weight
decay 5e-4, batch 128, crops with padding 4 and flips.
ps_kd (lgcnsai/PS-KD-Pytorch @9aa0828): 300 epochs, x0.1 at 150 and 225, Nesterov, alpha 0.8 (epoch + 1) / 300. Their
README: top-1 79.18 (error 20.82), without 75.82; the best epoch on the test set. Deviation: theirs is a pre-activation
ResNet-18, which kd_jax lacks.
tf_kd (yuanli2333/Teacher-free-Knowledge-Distillation @d000ab3): 200 epochs, x0.2 at 60, 120 and 160, the first a
warm-up. Their KL is a mean over the 100 classes as well, times 100 (reg) or 50 (self): so 0.9 CE + 0.1 KL, and 0.05 CE
+ 0.475 KD at T 6. The virtual teacher is softmax(d / 20) of the probabilities d = 0.99, 0.01 / 99, as the code has it:
0.0105 for the label, which differs little from uniform. Their README: alone 75.87; from memory, unchecked: self 77.10,
reg 77.36. Deviations: they also turn images by up to 15 degrees, and smooth labels with 0.1 on the other classes alone,
ours is on all.
byot (ArchipLab-LinfengZhang/pytorch-self-distillation-final @47ca93b, the authors' later version): 250 epochs, x0.1 at
a third, two thirds and 10 epochs before the end, alpha 0.3, the distillation without T^2. Of the paper, from memory and
unchecked: alone 77.09, last classifier 78.64, ensemble 79.67. Deviations: no AutoAugment (cutout of 16 as theirs);
exits of depthwise convolutions in place of bottlenecks with attention; for the hint they have 0.03 times the norm over
the batch of a learned projection's error, between embeddings and not on the last exit, we 0.03 times the mean square
between maps, on all exits.
born_again: no authors' code was found, and the recipe is that of Wide ResNets (200 epochs, x0.2 at 60, 120 and 160,
Nesterov), which we could not check; weights 1 and 1, T 1. We state no number.
2 % of the training images are held out to choose the best epoch; --config.data.validation=0 is the published protocol.
Cost: 77,000 to 115,000 steps a network, of born_again 230,000 of a large one: hours on a GPU, days for born_again
(estimates: we did not run them at full size); each with a baseline, --config.baseline=False without.
"""

import math

from ml_collections import ConfigDict

from kd_jax.config import (
    Terms,
    base,
    features,
    finish,
    kd_term,
    on_images,
    parse,
    part,
    response,
    supervised,
    term,
    training,
)

CE = "losses.task.cross_entropy_loss"
STUDENT = ("student.logits",)
WIDE = dict(name="models.vision.wide_resnet.WideResNet", kwargs=dict(depth=28, widen=10))
CLASSES = 100


def recipe(epochs: int, boundaries: tuple[int, ...], **optimizer) -> ConfigDict:
    """Returns a training by SGD at 0.1 that falls at these epochs."""
    step = dict(schedule="step", learning_rate=0.1, boundaries=tuple(b / epochs for b in boundaries), **optimizer)
    return training(batch_size=128, epochs=float(epochs), augment=("pad_crop", "flip"), optimizer=step)


def exit_terms(exits: tuple[str, ...], alpha: float = 0.3, hint: float = 0.03, temperature: float = 3.0) -> Terms:
    """Returns CE of the last exit; of others (1 - alpha) CE + alpha KL(T) from the last + hint mean (F_exit - F)^2."""
    terms = supervised()
    for name in exits:
        path = features("student", (name,))
        terms[f"ce_{name}"] = term(CE, path, ("batch.target",), weight=1.0 - alpha)
        # kd_loss has T^2, theirs has not.
        terms[f"kd_{name}"] = kd_term(alpha / temperature**2, temperature, inputs=path, targets=STUDENT)
        maps = features("student", (f"{name}/map",)), features("student", ("stage4",))
        terms[f"hint_{name}"] = term("losses.feature.feature_hint_loss", *maps, weight=hint)
    return terms


def byot(config: ConfigDict) -> None:
    config.train = recipe(250, (250 / 3, 500 / 3, 240))
    config.train.augment = (*config.train.augment, dict(name="cutout", size=16))
    network = config.student.model.to_dict()
    stages, exits = ("stage1", "stage2", "stage3"), ("exit1", "exit2", "exit3")
    config.student.model = part("models.exits.exits", network=network, taps=stages, last="stage4")
    config.scheme = part("schemes.self_deep.build", exits=exits)
    config.terms = ConfigDict(exit_terms(exits))


def born_again(config: ConfigDict) -> None:
    config.train = recipe(200, (60, 120, 160), decay=0.2, kwargs=dict(nesterov=True))
    config.student.model = WIDE
    config.scheme = part("schemes.generations.build", generations=3)
    config.terms = ConfigDict(response(1.0, temperature=1.0, ce=1.0, targets=("previous.logits",)))


def ps_kd(config: ConfigDict) -> None:
    config.train = recipe(300, (150, 225), kwargs=dict(nesterov=True))
    config.scheme = part("schemes.progressive.build")
    rising = part("core.schedules.warmup", fraction=1.0, stairs=300, first=1)
    refined = term(
        "losses.self_distillation.progressive_loss",
        STUDENT,
        ("batch.label",),
        kwargs={"alpha": 0.8, "progress": rising},
        options={"predictions": "extra.predictions", "index": "batch.index"},
    )
    config.terms = ConfigDict({"refined": refined})


def teacher_free() -> ConfigDict:
    return recipe(200, (60, 120, 160), decay=0.2, warmup=1 / 200)


def tf_kd_reg(config: ConfigDict, correct: float = 0.99, temperature: float = 20.0) -> None:
    config.train = teacher_free()
    # Softmax of probabilities over T, which the loss, that softens by their logarithms, does not have: the same at T 1.
    raised = math.exp((correct - (1 - correct) / (CLASSES - 1)) / temperature)
    kwargs = {"correct": raised / (raised + CLASSES - 1), "temperature": 1.0}
    loss = "losses.self_distillation.virtual_teacher_loss"
    virtual = term(loss, STUDENT, ("batch.label",), weight=0.1, kwargs=kwargs)
    config.terms = ConfigDict({**supervised(0.9), "virtual": virtual})


def tf_kd_self(config: ConfigDict) -> None:
    config.train = teacher_free()
    config.teacher.model = config.student.model.copy_and_resolve_references()
    config.teacher.train, config.teacher.seed = config.train.copy_and_resolve_references(), 1000
    config.terms = ConfigDict(response(0.95 * 50 / CLASSES, temperature=6.0, ce=0.05))


def label_smoothing(config: ConfigDict) -> None:
    config.train = teacher_free()
    config.terms = ConfigDict({"smooth": term(CE, STUDENT, ("batch.target",), kwargs={"smoothing": 0.1})})


BUILD = {
    "byot": byot,
    "born_again": born_again,
    "ps_kd": ps_kd,
    "tf_kd_reg": tf_kd_reg,
    "tf_kd_self": tf_kd_self,
    "label_smoothing": label_smoothing,
}


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=tuple(BUILD), flags=("synthetic",))
    on_images(config, variant, f"Self-distillation, {variant.variant.replace('_', ' ')}", "cifar100")
    config.student.model = dict(name="models.vision.resnet.resnet18", kwargs=dict(large_stem=False))
    config.teacher.model.name = ""
    BUILD[variant.variant](config)
    return finish(config, variant)
