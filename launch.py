"""python launch.py --config=configs/cifar_resnet.py:digits; --list shows the configs. kd_jax/cli.py says the rest."""

from kd_jax.cli import main

if __name__ == "__main__":
    main()
