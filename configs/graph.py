"""Graph-based distillation: graph networks into smaller ones and into an MLP, and relation graphs of images.

python launch.py --config=configs/graph.py[:VARIANT,packages,tiny]

mlp              a graph network teaches an MLP that sees one node's features and no graph (GLNN: Zhang, Liu, Sun, Shah,
                 "Graph-less Neural Networks", 2022, arXiv 2110.08727); the default
gnn              a graph network teaches a smaller one, with the shares of each node's neighbours (LSP: Yang et al.,
                 "Distilling Knowledge from Graph Convolutional Networks", 2020, arXiv 2003.10477)
image_relations  convolutional networks on images: graphs of the instances of a batch and how they change between two
                 layers (IRG: Liu et al., "Knowledge Distillation via Instance Relationship Graph", CVPR 2019)
packages         the first two on Debian packages (dependencies, short descriptions, seven sections) in place of the
                 digits, each joined to its 10 nearest; needs apt's lists, and more time

In "mlp" teacher and student have the same few labels: what the teacher knows more is the graph. In "gnn" the teacher
has all labels. A graph holds test nodes, as usual in transductive learning, but neither their labels nor the teacher's
answers on them are learned from.

Test accuracy on the digits, 100 labels, mean and deviation of 3 seeds of the student: "mlp" 91.0 +- 0.7 alone, 94.0 +-
0.3 distilled, teacher 95.0; "gnn" 94.3 +- 0.9, 95.0 +- 1.0, teacher 98.9; "image_relations" 83.6 +- 2.5, 92.0 +- 0.8,
teacher 98.1. In "gnn" the gain is that of the teacher's answers: in one seed three weights of the local structure (1;
100; 10 with scale 10) were no better on the validation split than 0, so it keeps 1.
"""

from ml_collections import ConfigDict

from kd_jax.config import compose, finish, parse, part, response, small_digits, term, training

VARIANTS = ("mlp", "gnn", "image_relations")
GRAPH = ("extra.graph", "batch.node")


def adam(steps: int) -> ConfigDict:
    return training(batch_size=64, steps=steps, optimizer=dict(name="adam", learning_rate=0.01))


def nodes(config: ConfigDict, packages: bool) -> None:
    config.data.name = "kd_jax.data.graphs:packages" if packages else "kd_jax.data.graphs:digits"
    config.data.labels = 140 if packages else 100
    config.teacher.data.labels = config.data.labels
    config.extra = ConfigDict(part("data.graphs.dependencies" if packages else "data.graphs.knn"))
    config.teacher.model = dict(name="models.graph.gnn.sage", kwargs=dict(widths=(64,)))
    config.teacher.inputs = GRAPH
    config.teacher.train, config.train = adam(200), adam(400)
    config.terms = ConfigDict(response(1.0, temperature=1.0, ce=1.0))  # KL at T 1, as in GLNN


def mlp(config: ConfigDict) -> None:
    config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(32,), dropout=0.5))


def gnn(config: ConfigDict) -> None:
    config.student.model = dict(name="models.graph.gnn.gcn", kwargs=dict(widths=(8,), dropout=0.5))
    config.student.inputs = GRAPH
    config.teacher.data.labels = 0
    config.train = adam(200)
    config.terms.local = term(
        "losses.graph.local_structure_loss",
        ("student.features:layer1",),
        ("teacher.features:layer1",),
        options={"senders": "extra.graph.senders", "receivers": "extra.graph.receivers"},
    )


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, variants=VARIANTS, flags=("packages",))
    config = small_digits()
    if variant.variant == "image_relations":
        config.student.model.kwargs.widths = (4, 8, 16)
        config.teacher.model.kwargs.widths = (16, 32, 64)
        config.terms = ConfigDict(compose("irg"))
        return finish(config, variant)
    nodes(config, "packages" in variant.flags)
    {"mlp": mlp, "gnn": gnn}[variant.variant](config)
    return finish(config, variant, tiny=dict(data=dict(limit=0, eval_limit=0)))  # a graph has all of its nodes
