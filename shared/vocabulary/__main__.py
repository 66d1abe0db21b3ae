"""`python -m shared.vocabulary`: prints the reference page of touchpoints."""

import sys

from shared.vocabulary.reference import reference

sys.stdout.write(reference())
