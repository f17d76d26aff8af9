"""An architecture found by DARTS with the teacher in the loop, on CIFAR-100; configs/architecture_search.py: digits.

python launch.py --config=configs/cifar100_search.py[:KNOWLEDGE,synthetic,tiny]

KNOWLEDGE  what teaches weights and architecture: response (default), or a name of kd_jax.config.presets
synthetic  made images in place of CIFAR-100, on any machine: the recipe runs, its numbers mean nothing
tiny       a few steps on a few images: does everything work?

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", 2018, arXiv 1806.09055, by its schedule; a teacher for
the architecture as in Gu, Tresp, "Search for Better Students to Learn Distilled Knowledge", 2020, arXiv 2001.11612,
whose method is another. NO PAPER HAS A NUMBER FOR THIS: the space is ours, a row of eight blocks that each take one of
four operations, where DARTS has cells of 14 edges and 8 operations and reports 97.24 (error 2.76 +- 0.09) on CIFAR-10
without a teacher. The number to compare with is "plain", 3 x 3 convolutions of fewer channels, whose parameters are the
budget. Read from the authors' code (quark0/darts @f276dd3, cnn/train_search.py, architect.py, train.py): the search has
50 epochs of half the images for weights and half for the architecture, 64 of each a step (a batch of 128 cut in two
here, not two sets), SGD at 0.025 with a cosine, weight decay 3e-4, gradient norm 5; the architecture Adam at 3e-4, b1
0.5, decay 1e-3, first order. The winner, from new weights, has 600 epochs of the same rate and cutout of 16.

Deviations: the cosines end at 0 (the search's at 0.001); the winner's batch is 128, not 96, and it has no drop-path and
no auxiliary head; searching sees cutout too. The teacher is a ResNet-56 by RepDistiller's recipe; response
is 0.1 CE + 0.9 KD at T 4, as for the pairs of CIFAR-100. 10 % of the images are held out to score the candidates.
configs/architecture_search.py:supernet has no form at this size: the papers of its parts searched on ImageNet. Cost:
17,600 steps of search, then 211,000 of two small networks: a day on a GPU, an estimate: we did not run it.
"""

from ml_collections import ConfigDict

from kd_jax.config import PRESETS, base, compose, finish, on_images, parse, part, role, training

SEARCH_EPOCHS, IMAGES, BATCH = 50, 45_000, 128
SEARCHED = (32, 32, 32, 64, 64, 64, 128, 128, 128)
PLAIN = (24, 24, 24, 48, 48, 48, 96, 96, 96)


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, knowledge=PRESETS, flags=("synthetic",))
    on_images(
        config,
        variant,
        "Differentiable search with a ResNet-56 as teacher (no published number)",
        "cifar100",
        validation=0.1,
    )
    config.teacher.model.name = "models.vision.cifar_resnet.resnet56"
    step = dict(schedule="step", learning_rate=0.05)
    config.teacher.train = training(batch_size=64, epochs=240.0, augment=("pad_crop", "flip"), optimizer=step)
    kinds = (("conv3",),) * (len(PLAIN) - 1)
    config.student.model = dict(name="models.vision.supernet.mixed_cnn", kwargs=dict(widths=PLAIN, kinds=kinds))
    config.roles.supernet = ConfigDict(role("models.vision.supernet.mixed_cnn", widths=SEARCHED))
    cosine = dict(schedule="cosine", learning_rate=0.025, weight_decay=3e-4, clip_norm=5.0)
    augment = ("pad_crop", "flip", dict(name="cutout", size=16))
    config.train = training(batch_size=BATCH, epochs=600.0, augment=augment, optimizer=cosine)
    adam = dict(name="adam", learning_rate=3e-4, weight_decay=1e-3, schedule="constant", kwargs=dict(b1=0.5))
    config.optimizers.alpha = ConfigDict({**training().optimizer, **adam})
    config.terms = ConfigDict(compose(variant.knowledge))
    search_steps = SEARCH_EPOCHS * IMAGES // BATCH
    config.scheme = ConfigDict(part("schemes.architecture_search.build", search_steps=search_steps))
    config.baseline = False  # "plain" is one that is taught; a baseline would be plain without a teacher
    return finish(config, variant, tiny=dict(scheme=dict(kwargs=dict(search_steps=6))))
