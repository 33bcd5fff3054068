"""Build steps that pyproject.toml cannot express: a wheel has the study's files and the commit."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

sys.path.insert(0, str(Path(__file__).parent))  # an isolated build does not add this folder
from cwm.infra import source


def record_commit(package: Path) -> None:
    """Write the commit into a copy of the package `cwm`."""
    (package / source.COMMIT.name).write_text(source.git_commit() + "\n")


class BuildPackage(build_py):
    """Adds the files of a study and the commit to the built package."""

    def run(self) -> None:
        """Build; an editable install reads both from the checkout instead."""
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "cwm")
        record_commit(package)
        template = package / source.TEMPLATE.name
        shutil.rmtree(template, ignore_errors=True)  # of an earlier build
        source.copy_study(template)


class SourceArchive(sdist):
    """Adds the commit to a source archive, which has no .git."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Fill the folder that is packed."""
        super().make_release_tree(base_dir, files)
        record_commit(Path(base_dir, "cwm"))


setup(cmdclass={"build_py": BuildPackage, "sdist": SourceArchive})
