"""A step of an attack against the released program itself, and against another commit of ours.

    python benchmarks/official.py ATTACK --checkout DIR [--stylegan DIR] [--before DIR] [--record RESULT.json]
    python benchmarks/official.py ATTACK --before DIR

DIR of --checkout holds the authors' repository, and of --stylegan NVIDIA's stylegan2-ada-pytorch, which ppa
needs as well; plgmi needs kornia 0.6.6. Nothing of them is part of this repository:

    gmi, kedmi   github.com/SCccc21/Knowledge-Enriched-DMI       plgmi   github.com/LetheSec/PLG-MI-Attack
    lomma_gmi    github.com/sutd-visual-computing-group/Re-thinking_MI
    ppa          github.com/LukasStruppek/Plug-and-Play-Attacks
    ifgmi        github.com/final-solution/IF-GMI                mirror  github.com/njuaplusplus/mirror
    brepmi       github.com/m-kahla/Label-Only-Model-Inversion-Attacks-via-Boundary-Repulsion
    rlbmi        github.com/HanGyojin/RLB-MI

The released function is called as it is, with the published networks and random weights. ``.cuda()`` gives
back what it is called on, packages that the program imports and that are not here are empty, and an
ImageNet-trained start is left out. A target of either side notes the processor time whenever it is asked,
and ends the attack after --steps steps; the first is not counted. Every side has a process of its own with
one thread, and they take turns. A ratio is the median of the ratios of the rounds, with the lowest and the
highest. Without --checkout nothing is said of the released programs; the other benchmarks compare with the
pattern of the released code, as this project wrote it down.

What a step is: of ifgmi one of its third stage, which moves and projects features as well; of rlbmi an
episode with its update, from a memory filled with zeros; of brepmi an estimate, of networks whose mean logits
are 0, so that random weights tell classes apart, and with an evaluator that costs nothing. The released rlbmi
and brepmi take one identity at a time, whatever --batch is; ours takes all together. StyleGAN2 is of 64
pixels here, and crops of larger pictures are left out.

A machine with other work is refused, or with --busy-ok noted in the record.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
import torchvision
from torch import nn

CLASSES = {"ppa": 530, "ifgmi": 530}  # 1,000 for others
STYLE = ("ppa", "mirror", "ifgmi")  # on a StyleGAN2, of a ResNet-18 at 224 pixels
CALLS = {
    "plgmi": {"ours": 2, "official": 2},
    "rlbmi": {"ours": 2, "official": 3},
}  # a step's questions, if not 1
ALONE = ("rlbmi", "brepmi")  # the released program takes one identity at a time
POINTS = 32  # images of an estimate of brepmi, which other questions have fewer than
STAGES = (0, 0, 1000)  # steps of ifgmi: the third stage alone
RADII = (1000, 2000, 3000)  # of its L1 balls
LOAD = 0.5  # a load average above this means other work
HERE = Path(__file__).resolve()


class Enough(Exception):
    """As many steps as were asked for."""


class Meter:
    """Notes when a target is asked for ``least`` images or more."""

    def __init__(self, target: nn.Module, calls: int, steps: int, least: int = 0):
        self.calls, self.steps, self.least, self.times = calls, steps, least, [0.0][:0]
        target.register_forward_pre_hook(lambda _, given: self.note(len(given[0])))

    def note(self, images: int) -> None:
        """Called before each answer; raises Enough at the last."""
        if images < self.least:
            return
        self.times.append(time.process_time())
        if len(self.times) > self.calls * (1 + self.steps):
            raise Enough

    def seconds(self, attack: Callable[[], object]) -> float:
        """Per step of ``attack``."""
        self.times.clear()
        with contextlib.suppress(Enough):
            attack()
        if len(self.times) <= self.calls * (1 + self.steps):
            raise SystemExit(f"the attack ended after {len(self.times)} questions; lower --steps")
        return (self.times[-1] - self.times[self.calls]) / self.steps


# ---- the released programs ----


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules in place of those that files of ``folder`` import and nobody has."""

    def __init__(self, folder: str):
        self.folder = folder

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        """A module for files of the folder alone: others may ask whether a package is there."""
        frame = sys._getframe(1)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Whose every name is there."""
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock()  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing."""


def enter(folder: Path) -> None:
    """Make the modules of ``folder`` importable, on a machine without a GPU."""
    sys.path.insert(0, str(folder))
    for part in folder.iterdir():  # folders without __init__.py come after any package of their name
        if part.is_dir() and not (part / "__init__.py").exists() and any(part.glob("*.py")):
            sys.modules[part.name] = package = ModuleType(part.name)
            package.__path__ = [str(part)]
    sys.meta_path.append(Absent(str(folder)))

    def stay(self: Any, *_: object, **__: object) -> Any:
        return self

    def to(self: Any, *where: Any, **options: Any) -> Any:
        return self if where == ("cuda",) else move(self, *where, **options)

    move = torch.Tensor.to
    torch.Tensor.cuda = nn.Module.cuda = stay  # type: ignore[method-assign, assignment]
    torch.Tensor.to = to  # type: ignore[method-assign, assignment]
    torchvision.models.vgg16_bn = untrained(torchvision.models.vgg16_bn)


def untrained(make: Callable[[], nn.Module]) -> Callable[..., nn.Module]:
    """A network of torchvision, whatever weights are asked for."""
    return lambda pretrained=False: make()


def released_low(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """GMI or KedMI of Knowledge-Enriched-DMI."""
    attack, nets, critics = import_module("attack"), import_module("generator"), import_module("discri")
    target = import_module("classify").VGG16(1000)
    critic = critics.MinibatchDiscriminator() if name == "kedmi" else critics.DGWGAN(3)
    invert = attack.dist_inversion if name == "kedmi" else attack.inversion
    options = {"lr": 2e-2, "iter_times": 1500, "improved": name == "kedmi"}
    arguments = nets.Generator(100), critic, target, nn.Identity(), torch.arange(batch)
    return target, lambda: invert(*arguments, itr=0, **options)


def released_lomma(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """LOMMA on GMI of Re-thinking_MI: the target and three students."""
    attack, nets = import_module("attack"), import_module("models.classify")
    make = torchvision.models.efficientnet
    for size in ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2"):
        setattr(make, size, untrained(getattr(make, size)))
    networks = [nets.VGG16(1000), *(getattr(nets, f"EfficientNet_b{n}")(1000) for n in range(3))]
    for network in networks:
        network.eval()
    generator = import_module("models.generator").Generator(100)
    critic = import_module("models.discri").DGWGAN(3)
    mean = [torch.zeros(networks[0].feat_dim)]
    arguments = generator, critic, networks, nn.Identity(), torch.arange(batch)
    options = {"used_loss": "logit_loss", "prefix": "z", "fea_mean": mean, "fea_logvar": mean, "lam": 1.0}

    def run() -> None:
        for file in Path().glob("z_*"):  # of the round before
            file.unlink()
        attack.inversion(*arguments, iter_times=2400, **options)

    return networks[0], run


def released_plgmi(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """PLG-MI-Attack."""
    attack = import_module("reconstruct")
    target, generator = attack.VGG16(1000), attack.ResNetGenerator(64, 128, 4, num_classes=1000)
    how = SimpleNamespace(save_dir=".", gen_dim_z=128, gen_distribution="normal", inv_loss_type="margin")
    labels = torch.arange(batch)
    return target, lambda: attack.inversion(how, generator, target, nn.Identity(), labels, 0, lr=0.1)


def released_ppa(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """Plug-and-Play-Attacks, on NVIDIA's StyleGAN2 of 64 pixels; the crop to 800 pixels is left out."""
    generator, target, seen, config = style_parts(name)
    generator.eval().requires_grad_(False)
    optimisation = import_module("attacks.optimize").Optimization(
        target, generator.synthesis, None, seen, generator.num_ws, config
    )
    codes, labels = torch.randn(batch, 1, 512), torch.arange(batch)
    return target, lambda: optimisation.optimize(codes.clone(), labels, 1000)


def style_parts(name: str) -> tuple[Any, nn.Module, Callable[..., Any], SimpleNamespace]:
    """Generator, target, what it sees and the settings that ppa and ifgmi share."""
    networks = import_module("training.networks")
    sizes = {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256}
    generator = networks.Generator(512, 0, 512, 64, 3, synthesis_kwargs=sizes)
    target = torchvision.models.resnet18(num_classes=CLASSES[name]).eval()
    views = torchvision.transforms
    seen = views.Compose(
        [
            views.Resize((224, 224), antialias=True),
            views.RandomResizedCrop((224, 224), scale=(0.9, 1.0), ratio=(1.0, 1.0), antialias=True),
        ]
    )
    config = SimpleNamespace(
        attack={"discriminator_loss_weight": 0, "clip": False},
        intermediate={
            "start": 0, "end": 8, "steps": STAGES, "max_radius_mid_vecor": RADII, "max_radius_w": RADII,
        },
        create_optimizer=lambda params: torch.optim.Adam(params, lr=5e-3, betas=(0.1, 0.1)),
        create_lr_scheduler=lambda _: None,
        log_progress=False,
    )  # fmt: skip
    return generator, target, seen, config


def released_ifgmi(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """IF-GMI, whose generator collects gradients, as there."""
    enter(Path(sys.path[0]) / "stylegan2_intermediate")
    generator, target, seen, config = style_parts(name)
    synthesis = nn.DataParallel(generator.synthesis)
    optimisation = import_module("attacks.optimize").Optimization(
        target, synthesis, seen, generator.num_ws, config
    )
    codes, labels = torch.randn(batch, 1, 512), torch.arange(batch)
    return target, lambda: optimisation.optimize(codes.clone(), labels)


def released_mirror(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """mirror. The generator's file, the codes of the bounds and a mask of no use here are made; nothing is
    downloaded.
    """
    torch.save(torch.ones(1), "conf_mask.pt")
    helper, models = import_module("my_whitebox_mirror_helper"), import_module("genforce.models")
    kind = "stylegan2_ffhq1024"
    models.MODEL_ZOO[kind]["resolution"] = 64
    Path("checkpoints").mkdir()
    Path("images").mkdir()
    weights = {"generator_smooth": models.build_generator("stylegan2", 64).state_dict()}
    torch.save(weights, f"checkpoints/{kind}.pth")
    torch.save(torch.randn(1000, 512), "codes.pt")
    target = torchvision.models.resnet18(num_classes=1000).eval()
    options: dict[str, Any] = {
        "device": torch.device("cpu"), "bs": batch, "epochs": 20000, "lr": 0.25, "save_every": 20001,
        "genforce_model": kind, "latent_space": "w", "trunc_psi": 0.7, "trunc_layers": 8, "p_std_ce": 1.0,
        "loss_class_ce": 10.0, "loss_discri_ce": 0.0, "loss_l2_bound_latent_ce": 0.0, "do_flip": True,
        "naive_clip_w_bound": 0.0, "energy": False, "to_truncate_z": False, "z_std_ce": 1.0,
        "use_w_mean": False, "use_cache": False, "pre_samples_dir": "", "all_ws_pt_file": "codes.pt",
        "arch_name": "cat_resnet18", "image_resolution": 224, "criterion": nn.CrossEntropyLoss(),
        "tmp_img_dirname": ".", "final_img_dirname": ".",
    }  # fmt: skip

    def run() -> None:
        helper.mirror_attack(SimpleNamespace(**options, targets=list(range(batch))), target, target)

    return target, run


def released_rlbmi(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """RLB-MI."""
    attack, agents = import_module("attack"), import_module("SAC")
    generator = import_module("generator").Generator(100).eval()
    target = import_module("classify").VGG16(1000).eval()
    agent = agents.Agent(100, 100, random_seed=42, hidden_size=256)
    nothing = torch.zeros(1, 100)
    for _ in range(agents.BATCH_SIZE):
        agent.memory.add(nothing.numpy(), nothing[0], 0.0, nothing.numpy(), True)
    return target, lambda: attack.inversion(agent, generator, target, 0.0)


def released_brepmi(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """BREP-MI."""
    attack = import_module("brep_mi")
    generator = import_module("generator").Generator(100).eval()
    target = import_module("classify").VGG16(1000).eval()
    centre(target, lambda images: target(images)[-1], generator)
    point = torch.randn(100).clamp(-1.5, 1.5)
    with torch.no_grad():
        label = int(target(generator(point[None]))[-1].argmax())
    how = {"sphere_points_count": POINTS, "current_sphere_radius": 2, "sphere_expansion_coeff": 1.3}
    how |= {"point_clamp_min": -1.5, "point_clamp_max": 1.5, "max_iters_at_radius_before_terminate": 1000}
    how |= {"repulsion_only": True}

    def judge(images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros(len(images), 1000)]

    networks = generator, target, judge
    return target, lambda: attack.attack_single_target(
        point, label, None, *networks, how, nn.CrossEntropyLoss(), "."
    )


RELEASED: dict[str, Callable[[str, int], tuple[nn.Module, Callable[[], object]]]] = {
    "gmi": released_low,
    "kedmi": released_low,
    "lomma_gmi": released_lomma,
    "plgmi": released_plgmi,
    "ppa": released_ppa,
    "ifgmi": released_ifgmi,
    "mirror": released_mirror,
    "rlbmi": released_rlbmi,
    "brepmi": released_brepmi,
}


def centre(target: Any, logits: Callable[..., Any], generate: Callable[..., Any]) -> None:
    """Give the target of either side mean logits 0 on generated images."""
    with torch.no_grad():
        target.fc_layer.bias -= logits(generate(torch.randn(64, 100).clamp(-1.5, 1.5))).mean(0)


# ---- ours ----


def ours(name: str, batch: int) -> tuple[nn.Module, Callable[[], object]]:
    """``invert`` of the attack of conf/attack with its prior, both of the published size."""
    # imported here: of the commit that this process is for, and not beside a released program
    from attacks import build_attack
    from midre_exp.data.transforms import Resize
    from midre_exp.loop import Loop
    from midre_exp.plan.choice import choice
    from midre_exp.priors import build_prior
    from midre_exp.runtime import Runtime
    from midre_exp.seeding import ItemRNG
    from midre_exp.surrogates.base import initial_surrogates
    from midre_exp.targets import build_target
    from midre_exp.threat import Victim

    classes, is_style = CLASSES.get(name, 1000), name in STYLE
    options: dict[str, object] = {"steps": 1000, "reference_batch": batch}
    phases = zip(STAGES, RADII, strict=True)
    options = {
        "kedmi": {"steps": 1000, "group": batch},
        "ppa": {**options, "kept": 1},
        "mirror": {**options, "search": {"size": 1000}},
        "ifgmi": {
            "stages": [{"steps": n, "radius_features": r, "radius_w": r} for n, r in phases],
            "reference_batch": batch,
        },
        "rlbmi": {},
        "brepmi": {"search_batch": POINTS // 2 * batch},
    }.get(name, options)
    attack: Any = build_attack(name, identities=batch, restarts=1, **options)
    kind = "stylegan2" if is_style else {"kedmi": "kedmi", "plgmi": "plgmi"}.get(name, "gmi")
    prior: Any = build_prior(kind, num_classes=classes, image_size=64)
    if hasattr(prior, "freeze"):
        prior.freeze()
    else:  # a commit before there was one
        prior.eval().requires_grad_(False)
    attack.image_to_target = attack.picture = [Resize(size=224)] if is_style else []
    target: Any = build_target("resnet18" if is_style else "vgg16", num_classes=classes)
    victim: Any = Victim.of(target, classes, attack.threat)
    if name == "lomma_gmi":
        attack.surrogates = initial_surrogates(choice("attack", name, scale="paper")["surrogates"], classes)
        attack.surrogates.feature_mean = torch.zeros(target.fc_layer.in_features)
        attack.surrogates.eval().requires_grad_(False)
    if name == "rlbmi":  # as if a batch of episodes were behind it: the memory is there from the start
        train = attack.train
        attack.train = lambda *given: train(*given[:-1], given[-1] + attack.batch_size)
    if name == "brepmi":
        centre(target, lambda images: target(images).logits, prior.generate)
    labels, runtime = torch.arange(batch), Runtime(quiet=True)
    start = torch.randn(batch, 512) if name == "mirror" else torch.randn(batch, 1, 512) if is_style else None

    def run() -> None:
        rng = ItemRNG(0, "attack", items=(labels, torch.zeros_like(labels)))
        with tempfile.TemporaryDirectory() as folder:
            loop = Loop(Path(folder) / "state.pt", "", runtime, victim, start=start)
            attack.invert(victim, prior, labels, rng, loop)

    return target, run


# ---- both ----


def work(given: argparse.Namespace) -> None:
    """The process of one side: for each line on stdin, the seconds of an item's step on stdout."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    answers = sys.stdout
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.chdir(folder)  # where released programs write
        for checkout in filter(None, (given.stylegan, given.checkout) if given.side == "official" else ()):
            enter(checkout.resolve())
        make = RELEASED[given.attack] if given.side == "official" else ours
        target, attack = make(given.attack, given.batch)
        is_released = given.side == "official"
        items = 1 if is_released and given.attack in ALONE else given.batch
        calls = CALLS.get(given.attack, {}).get("official" if is_released else "ours", 1)
        meter = Meter(target, calls, given.steps, POINTS * items if given.attack == "brepmi" else 0)
        for _ in sys.stdin:
            print(meter.seconds(attack) / items, file=answers, flush=True)
        os.chdir("/")


def start(side: str, root: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """The process of one side, which imports this project from ``root``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE), "--side", side, *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**environment, "OMP_NUM_THREADS": "1"}, cwd=root,
    )  # fmt: skip


def ask(name: str, side: subprocess.Popen[str]) -> float:
    """The seconds of an item's step, now. Ends the benchmark if the process has ended."""
    assert side.stdin is not None
    assert side.stdout is not None
    try:
        side.stdin.write("\n")
        side.stdin.flush()
        return float(side.stdout.readline())
    except (BrokenPipeError, ValueError):
        raise SystemExit(f"the side {name} ended; run it alone with --side {name} and press return") from None


def ratio(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """Of the rounds."""
    rounds = [a / b for a, b in zip(of, to, strict=True)]
    return {"median": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)}


def commit_of(root: Path) -> str:
    """As git says it."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "not a git checkout"


def main() -> None:
    """Measure, print, and add to the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attack", choices=sorted(RELEASED))
    parser.add_argument("--checkout", type=Path, help="the authors' repository")
    parser.add_argument("--stylegan", type=Path, help="NVIDIA's stylegan2-ada-pytorch, for ppa")
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--batch", type=int, default=4, help="items optimised together on both sides")
    parser.add_argument("--steps", type=int, default=3, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--busy-ok", action="store_true", help="measure beside other work; the record says so"
    )
    parser.add_argument(
        "--side", choices=("ours", "before", "official"), help="be one side, for this program"
    )
    parser.add_argument("--record", type=Path, help="add the numbers to this JSON file as well")
    given = parser.parse_args()
    if given.side:
        work(given)
        return
    if given.checkout is None and given.before is None:
        parser.error("give --checkout, --before or both: there is nothing to compare with")
    if given.checkout and given.attack == "plgmi" and importlib.util.find_spec("kornia") is None:
        parser.error("plgmi augments by kornia, which is not installed: pip install kornia==0.6.6")
    if given.checkout and given.attack == "ppa" and given.stylegan is None:
        parser.error("ppa needs --stylegan, a checkout of NVIDIA's stylegan2-ada-pytorch")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if load is not None and load > LOAD and not given.busy_ok:
        parser.error(f"the load average is {load:.1f}: wait until the machine is idle, or give --busy-ok")
    arguments = [given.attack, "--batch", str(given.batch), "--steps", str(given.steps)]
    for option in ("checkout", "stylegan"):
        if getattr(given, option):
            arguments += [f"--{option}", str(getattr(given, option).resolve())]
    roots = {"ours": HERE.parents[1], "before": given.before and given.before.resolve()}
    roots["official"] = given.checkout and HERE.parents[1]
    sides = {side: start(side, root, arguments) for side, root in roots.items() if root}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(1 + given.rounds):  # the first warms up
        for side, process in sides.items():
            seconds = ask(side, process)
            if number:
                times[side].append(seconds)
    for process in sides.values():
        process.communicate()
    others = [side for side in sides if side != "ours"]
    row = {
        "attack": given.attack,
        **{name: getattr(given, name) for name in ("batch", "steps", "rounds")},
        "seconds_per_item_and_step": {side: statistics.median(values) for side, values in times.items()},
        "ratios": {side: ratio(times[side], times["ours"]) for side in others},
        "commits": {side: commit_of(root) for side, root in roots.items() if root and side != "official"},
        "load_average_before": load,
    }
    for side in others:
        found = row["ratios"][side]
        print(
            f"{given.attack}: {side} / ours = {found['median']:.2f} "
            f"[{found['lowest']:.2f}, {found['highest']:.2f}], {given.rounds} rounds"
        )
    if given.record is not None:
        write(given.record, row)


def write(path: Path, row: dict[str, Any]) -> None:
    """Put the row of this attack into the record at ``path``, in place of an older one."""
    record = json.loads(path.read_text()) if path.exists() else {}
    older = [r for r in record.get("measured", []) if r["attack"] != row["attack"]]
    record = {
        "benchmark": "official",
        "statistic": "median of the ratios of rounds, processor time of one thread, sides in turns",
        "device": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "measured": sorted([*older, row], key=lambda r: r["attack"]),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
