"""Whose turn it is to sweep: one sweeper at a time per database."""

from django.db import models
from django.db.models import F


class SweeperTurn(models.Model):
    """The one row with id 1. Whoever has the turn has its `claim_token`, and changes `beats` with each sweep."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    claimed_by = models.CharField(max_length=255, default="")
    claim_token = models.BigIntegerField(null=True)
    beats = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.claimed_by or 'nobody'} sweeps"

    def take_over(self, owner: str, token: int) -> bool:
        """Take the turn from whoever had it when this row was read; whether nothing has changed since."""
        unchanged = SweeperTurn.objects.filter(pk=1, claim_token=self.claim_token, beats=self.beats)
        return bool(unchanged.update(claimed_by=owner, claim_token=token, beats=F("beats") + 1))

    @classmethod
    def keep(cls, token: int) -> bool:
        """Go on; False if somebody else has the turn."""
        return bool(cls.objects.filter(pk=1, claim_token=token).update(beats=F("beats") + 1))

    @classmethod
    def give_up(cls, token: int) -> None:
        """Let the next one take it at once."""
        cls.objects.filter(pk=1, claim_token=token).update(claimed_by="", claim_token=None)
