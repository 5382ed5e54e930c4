"""The base of every section of a recipe."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Unknown keys are mistakes, infinities too; strings such as "2e-4" are read as the numbers they spell."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    def beside(self, base: Path) -> None:
        """Told the recipe's folder, to which the paths in it are relative."""
