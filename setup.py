"""Build step: a wheel holds copies of configs/ and datasets/, for `--recipe NAME` and `hpm-video data NAME`.

The folders stay at the top of the tree: `datasets` must not become an importable package beside Hugging Face's.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RECIPES = [*Path("configs").glob("*/*.yaml"), *Path("datasets").glob("*/*.py"), *Path("datasets").glob("*/*.md")]


class BuildWithRecipes(build_py):
    """Copy the recipes into hpm_video/_recipes. An editable installation reads those of the checkout."""

    def run(self) -> None:
        super().run()
        for file, copy in self._copies().items():
            self.mkpath(str(Path(copy).parent))
            self.copy_file(str(file), copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._copies().values()]

    def _copies(self) -> dict[Path, str]:
        if self.editable_mode:
            return {}
        return {file: str(Path(self.build_lib, "hpm_video", "_recipes", file)) for file in sorted(RECIPES)}


setup(cmdclass={"build_py": BuildWithRecipes})
