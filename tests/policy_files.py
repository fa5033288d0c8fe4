"""Policy debug files written as Felix writes them, as small as a law needs them."""

import json


def written(*comments, error="", label_before=0):
    """A policy debug file: each comment on an instruction of its own, a number is what the code loads into R2, and the
    instruction at `label_before` is where a workload's own policy begins.
    """
    instructions = []
    for place, one in enumerate(comments):
        labels = ["allowed_by_host_policy"] if place == label_before else []
        if isinstance(one, int):
            low, high = one & 0xFFFFFFFF, one >> 32
            instructions += [{"inst": [0x18, 2, 0, 0, *low.to_bytes(4, "little")], "labels": labels}]
            instructions += [{"inst": [0, 0, 0, 0, *high.to_bytes(4, "little")]}]
        else:
            instructions.append({"inst": [0] * 8, "labels": labels, "comments": [one]})
    return json.dumps({"hook": "tc", "policyInfo": instructions, "error": error}).encode()


def tier(name, *policies, end=()):
    """The comments of a tier; `end` is its action and, where it has code, the id that the code loads."""
    inside = [line for one in policies for line in one]
    return [f"Start of tier {name}", *inside, f"End of tier {name}{f': {end[0]}' if end else ''}", *end[1:]]


def policy(title, *rules):
    """The comments of a policy called `<kind> <name>` from (action, id), text and comments of its rules."""
    inside = [line for one in rules for line in ruled(title.rpartition(" ")[2], *one)]
    return [f"Start of {title} 0", *inside, f"End of {title} 0"]


def ruled(owner, action, number, text="", *comments):
    """The comments of a rule; without a policy around them, of a profile's."""
    start = f'Start of rule {owner} action:"{action}" {text} rule_id:"x"'
    return [start, f"Rule MatchID: {number}", *comments, f"End of rule {owner} x"]
