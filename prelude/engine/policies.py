"""Which policies there are."""

from prelude.batcher.class_aware import class_aware
from prelude.batcher.fcfs import fcfs
from prelude.batcher.priority import priority, srpt_oracle
from prelude.batcher.view import Policy
from prelude.conf.schema import Policy as PolicyName

POLICIES: dict[PolicyName, Policy] = {
    PolicyName.fcfs: fcfs,
    PolicyName.priority: priority,
    PolicyName.srpt_oracle: srpt_oracle,
    PolicyName.class_aware: class_aware,
}
