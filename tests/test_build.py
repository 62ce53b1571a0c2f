"""`sample_models/deploy`: the build keeps its word, as the workflow starts it; devices need neither torch nor greg."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import program
from tests.conftest import DIGITS, ROOT

DEPLOY = ROOT / "sample_models" / "deploy"
BUILD = DEPLOY / "build.sh"
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="build.sh is for bash, which is not here")
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="build.sh takes jq, which is not here")
ON_A_DEVICE = (
    "import runpy, sys; sys.modules.update(torch=None, greg_compress=None, onnx=None); sys.argv = sys.argv[1:];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs a program where torch, onnx and greg cannot be imported."""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the greg and the python3 of these tests."""
    folder = tmp_path / "tools"
    folder.mkdir()
    python = shlex.quote(sys.executable)
    for name, line in {"greg": f"{python} -m greg_compress", "python3": python}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def bash(line: str, folder: Path, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    words = [str(shutil.which("bash")), "-c", line]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


def workflow() -> Mapping[str, Any]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((DEPLOY / "github-workflow.yml").read_text())["jobs"]["compress"]


def variables() -> set[str]:
    """What can be set from outside, as build.sh says itself."""
    return set(re.findall(r"^(\w+)=\$\{\1:?-", BUILD.read_text(), re.M))


@needs_bash
@needs_jq
def test_the_workflow_builds_the_digits(tmp_path: Path, tools: Path) -> None:
    job = workflow()
    (line,) = (step["run"] for step in job["steps"] if "build.sh" in step.get("run", ""))
    line = line.replace("sample_models/", f"{shlex.quote(str(ROOT))}/sample_models/")
    path = f"{tools}:{os.environ['PATH']}"
    wishes = {**job["env"], "OPTIONS": "--batch-size 64 --scale 0.04", "GATES": "--max-drop 99"}
    summary = tmp_path / "summary.md"
    built = bash(line, tmp_path, path, **wishes, GITHUB_STEP_SUMMARY=str(summary))
    assert built.returncode == 0, built.stderr
    out = tmp_path / job["env"]["OUT"]
    report = json.loads((out / "report.json").read_text())
    model = (out / "model.onnx").read_bytes()
    assert report["passed"] is True
    assert f"| bytes | {report['dense']['onnx_size']} | {len(model)} |" in summary.read_text()
    assert f"| {report['dense']['top1']:.2f}% | {report['pruned']['top1']:.2f}% |" in built.stdout
    assert (out / "model.onnx.sha256").read_text() == f"{sha256(model).hexdigest()}  model.onnx\n"
    assert len(re.findall(r"^\S+/digits/\d\.pgm\t\d\t[01]\.\d{4}$", built.stdout, re.M)) == 10
    kept = [step["with"]["path"] for step in job["steps"] if "artifact" in step.get("uses", "")]
    assert all((tmp_path / file).exists() for file in kept[0].split())

    again = bash(line, tmp_path, path, **wishes)
    assert again.returncode == 0, again.stderr
    assert ": greg " not in again.stderr, "a finished step was run again"
    assert (out / "model.onnx").read_bytes() == model

    failed = bash(line, tmp_path, path, **{**wishes, "GATES": "--max-drop 0"})
    assert failed.returncode == 3
    assert re.search(r"^build.sh: a gate was not passed: top-1 fell by [\d.]+ points", failed.stderr, re.M)
    assert not (out / "model.onnx").exists()
    wrong = bash(line, tmp_path, path, **{**wishes, "SELECT": "--ratios 2"})
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "greg: --ratios 2" in wrong.stderr


def test_the_workflow_is_the_build_and_no_other() -> None:
    job = workflow()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs == ["pip install .", "bash sample_models/deploy/build.sh"]
    assert job["env"].keys() <= variables()
    cached = [step["with"]["path"] for step in job["steps"] if "cache/" in step.get("uses", "")]
    assert cached == [job["env"]["OUT"]] * 2
    assert [step["if"] for step in job["steps"] if "cache/save" in step.get("uses", "")] == ["always()"]


def test_the_workflow_names_its_steps_also_where_yaml_is_not_installed() -> None:
    text = (DEPLOY / "github-workflow.yml").read_text()
    assert re.findall(r"^ +run: (.*)$", text, re.M) == ["pip install .", "bash sample_models/deploy/build.sh"]
    assert variables() == {"MODEL", "DATA", "SELECT", "GATES", "OPTIONS", "IMAGES", "OUT"}


@needs_bash
@pytest.mark.parametrize("missing", ["greg", "jq", "python3"])
def test_a_missing_tool_is_said_before_anything_is_done(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for name in {"greg", "jq", "python3"} - {missing}:
        (folder / name).write_text("#!/bin/sh\nexit 9\n")
        (folder / name).chmod(0o755)
    (folder / "dirname").symlink_to(str(shutil.which("dirname")))
    ran = bash(f"source {shlex.quote(str(BUILD))}", tmp_path, str(folder))
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"build.sh: {missing} is missing; install it\n")
    assert sorted(tmp_path.iterdir()) == [folder]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network twice: with its normalisation beside and inside the file."""
    folder = tmp_path_factory.mktemp("models")
    for name, more in {"plain.onnx": (), "whole.onnx": ("--with-preprocessing",)}.items():
        ran = program.greg(folder, "export", DIGITS, "-o", name, "--runs", "1", *more)
        assert ran.code == 0, ran.err
    return folder


@pytest.fixture(scope="module")
def tests() -> tuple[Any, Any]:
    """Test images and labels of the digits: every fifth."""
    with np.load(ROOT / "greg_compress" / "sources" / "digits.npz") as arrays:
        return arrays["images"][4::5], arrays["labels"][4::5]


def run(*words: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-c", ON_A_DEVICE, DEPLOY / "run.py", *words]
    return subprocess.run(list(map(str, line)), input=stdin, capture_output=True, check=False)


def lines(ran: subprocess.CompletedProcess[bytes]) -> list[list[str]]:
    assert ran.returncode == 0, ran.stderr
    return [line.split("\t") for line in ran.stdout.decode().splitlines()]


@pytest.mark.parametrize("name", ["plain.onnx", "whole.onnx"])
def test_a_device_sees_what_greg_evaluates(models: Path, tests: Any, tmp_path: Path, name: str) -> None:
    images, labels = tests
    np.save(tmp_path / "images.npy", images)
    found = lines(run(models / name, tmp_path / "images.npy"))
    right = np.array([int(best) for _, best, _ in found]) == labels
    evaluated = program.greg(models, "evaluate", name, "--data", "digits", "--json").json
    assert 100 * right.mean() == pytest.approx(evaluated["top1"])
    np.save(tmp_path / "dark.npy", images // 8)  # what is wrongly scaled is seen wrongly
    dark = np.array([int(best) for _, best, _ in lines(run(models / name, tmp_path / "dark.npy"))])
    assert (dark == labels).mean() < 0.9 * right.mean()


def pgm(image: Any, comment: bytes = b"") -> bytes:
    return b"P5\n" + comment + b"%d %d\n16\n" % image.shape[:0:-1] + image.tobytes()


def test_images_of_every_way_are_the_same(models: Path, tests: Any, tmp_path: Path) -> None:
    images = tests[0][:4]
    np.save(tmp_path / "images.npy", images)
    files = [tmp_path / f"{n}.pgm" for n in range(4)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(pgm(image, b"# by a camera\n"))
    model = models / "plain.onnx"
    ways = [
        lines(run(model, tmp_path / "images.npy")),
        lines(run(model, *files)),
        lines(run(model, "-", stdin=b"".join(map(pgm, images)))),
    ]
    assert [row[0] for row in ways[1]] == [str(file) for file in files]
    assert [row[1:] for row in ways[0]] == [row[1:] for row in ways[1]] == [row[1:] for row in ways[2]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no binary PGM or PPM"),
        (b"P5 8 8 16\n" + bytes(63), "cut off"),
        (b"P5 8 8 300\n" + bytes(128), "16 bits"),
        (b"P6 8 8 255\n" + bytes(192), "the image is (3, 8, 8) (C, H, W), but the network takes (1, 8, 8)"),
        (b"P5 8 8 16\n" + bytes(64) + b"more", "no binary PGM or PPM"),
    ],
)
def test_what_is_no_image_is_one_line(models: Path, content: bytes, said: str) -> None:
    ran = run(models / "plain.onnx", "-", stdin=content)
    assert ran.returncode == 1
    assert said in ran.stderr.decode()
    assert ran.stderr.decode().startswith("run.py: ")
    assert ran.stderr.count(b"\n") == 1


def test_a_shell_sorts_pictures_by_what_is_on_them(models: Path, tests: Any, tmp_path: Path, tools: Path) -> None:
    images, labels = tests
    inbox = tmp_path / "in box"
    inbox.mkdir()
    for n in range(12):
        (inbox / f"{n} of {labels[n]}.pgm").write_bytes(pgm(images[n]))
    words = ["sh", DEPLOY / "sort.sh", models / "plain.onnx", inbox, tmp_path / "sorted"]
    environment = {**os.environ, "PYTHON": str(tools / "python3")}

    def sort() -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)

    (inbox / "broken.pgm").write_bytes(b"P5 8")
    assert sort().returncode != 0
    assert (len(list(inbox.iterdir())), (tmp_path / "sorted").exists()) == (13, False)
    (inbox / "broken.pgm").unlink()
    ran = sort()
    assert ran.returncode == 0, ran.stderr
    assert list(inbox.iterdir()) == []
    found = {path.name: path.parent.name for path in (tmp_path / "sorted").rglob("*.pgm")}
    assert len(found) == 12
    assert sum(name[-5] == folder for name, folder in found.items()) >= 11
    counts = {folder: list(found.values()).count(folder) for folder in found.values()}
    assert ran.stdout.splitlines() == [f"class {folder}: {counts[folder]}" for folder in sorted(counts)]
    assert sort().stdout == f"nothing in {inbox}\n"
