"""No code of the project runs what a file says: the calls that could are found in its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("midre_exp", "attacks", "defenses", "hydra_plugins")
LOADER = "midre_exp/weights/torch_file.py"  # the one file that may call torch.load

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads"),
    *("joblib.load", "marshal.load", "marshal.loads", "shelve.open", "runpy.run_path", "runpy.run_module"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle"),
    *("torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.package.PackageImporter"),
    *("os.system", "os.popen", "shutil.unpack_archive", "loadmat", "scipy.io.loadmat", "tarfile.is_tarfile"),
}  # fmt: skip
#: What this program pickled itself a moment ago: a composed config that is copied, an error on its way between
#: processes, a training handed to those that share it, and a SLURM job's result, as submitit leaves it.
OWN = {
    (f"midre_exp/{name}.py", "pickle.loads")
    for name in ("plan/compose", "plan/loaded_once", "sweep/job", "sweep/endings", "targets/training/launch")
}
METHODS = {"extractall", "extract"}  # of archives: nothing is unpacked to disk


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(file, dotted name, call) of every call in the packages."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), ast.unparse(node.func), node


def test_nothing_calls_what_could_run_a_file() -> None:
    found = [
        f"{file}:{call.lineno} {name}"
        for file, name, call in calls()
        if (name in FORBIDDEN and (file, name) not in OWN)
        or ("." in name and name.rpartition(".")[2] in METHODS)
    ]
    assert found == []


def test_torch_load_is_called_in_one_place_and_for_tensors_only() -> None:
    loads = [
        (file, call) for file, name, call in calls() if name in ("torch.load", "torch.serialization.load")
    ]
    assert [file for file, _ in loads] == [LOADER]
    options = {word.arg: ast.unparse(word.value) for _, call in loads for word in call.keywords}
    assert options["weights_only"] == "True"


def test_numpy_never_unpickles() -> None:
    for file, name, call in calls():
        if name in ("np.load", "numpy.load"):
            assert "allow_pickle=True" not in ast.unparse(call), file


def test_no_process_is_started_through_a_shell() -> None:
    for file, name, call in calls():
        if name.startswith("subprocess."):
            assert "shell=True" not in ast.unparse(call).replace(" ", ""), file
