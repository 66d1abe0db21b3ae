"""The living profile: a commutative monoid in integers that profiles writes and scoring reads.

`new`, `fold`, `merge`, `encode`, `decode`; the rest reads.
"""

from shared.profile.behaviour import Behaviour, Tally
from shared.profile.care import Call, Complaint, Survey, Ticket, calls, complaints, surveys, tickets
from shared.profile.component import Component, Occurrence, Profile
from shared.profile.messages import Message, messages
from shared.profile.orders import Order, Purchase, money, purchases, spending
from shared.profile.state import (
    COMPONENTS,
    FOLD_VERSION,
    STATE_VERSION,
    decode,
    differing,
    encode,
    fold,
    merge,
    narrowed,
    new,
)
from shared.profile.subscriptions import Subscription, subscription, subscriptions
from shared.profile.traits import traits
from shared.profile.views import BadExperience, active_days, activity, bad_experience, counts, is_low, summary

__all__ = [
    "COMPONENTS", "FOLD_VERSION", "STATE_VERSION", "BadExperience", "Behaviour", "Call", "Complaint", "Component",
    "Message", "Occurrence", "Order", "Profile", "Purchase", "Subscription", "Survey", "Tally", "Ticket",
    "active_days", "activity", "bad_experience", "calls", "complaints", "counts", "decode", "differing", "encode",
    "fold", "is_low", "merge", "messages", "money", "narrowed", "new", "purchases", "spending", "subscription",
    "subscriptions", "summary", "surveys", "tickets", "traits",
]  # fmt: skip
