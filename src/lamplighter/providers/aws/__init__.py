"""GPU machines of AWS. `provider` is the contract; `picture` what AWS says, `decide` what follows, `poller` does it; `admission` lets nodes in."""

from lamplighter.providers.aws.provider import AwsProvider

__all__ = ["AwsProvider"]
