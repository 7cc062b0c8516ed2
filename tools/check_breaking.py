"""Check the schemas in proto/ against every released image in proto/released/, by `buf breaking`.

An image is written when hermes-proto is released: buf build proto -o proto/released/hermes-proto-VERSION.binpb.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(root: Path = ROOT) -> int:
    """Return 1 if a schema under `root` breaks a released one, 0 otherwise."""
    images = sorted((root / "proto/released").glob("*.binpb"))
    if not images:
        print("No schema is released yet (proto/released has no image): before 1.0.0 there is nothing to break.")
        return 0
    broken = [
        image.name
        for image in images
        if subprocess.run(["buf", "breaking", "--against", str(image)], cwd=root, check=False).returncode
    ]
    if broken:
        print(f"proto/ breaks what was released in: {', '.join(broken)}", file=sys.stderr)
        return 1
    print(f"proto/ is compatible with: {', '.join(image.name for image in images)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
