"""Which policies there are."""

from prelude.batcher.fcfs import fcfs
from prelude.batcher.view import Policy
from prelude.conf.schema import Policy as PolicyName

POLICIES: dict[PolicyName, Policy] = {PolicyName.fcfs: fcfs}
