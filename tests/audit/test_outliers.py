import itertools
import random

from qlora_kit.audit.findings import read_rows
from qlora_kit.audit.outliers import outlier_findings
from tests.audit.planting import base_rows, pair, write

FOREIGN = (
    "Bitte stellen Sie den Schrank im Wohnzimmer auf und ziehen Sie alle Schrauben fest.",
    "Veuillez poser le meuble dans le salon et serrer toutes les vis avec la clé fournie.",
    "Por favor coloque el armario en la sala y apriete todos los tornillos con la llave.",
    "Si prega di mettere il mobile nel soggiorno e stringere tutte le viti con la chiave.",
    "Zet de kast in de woonkamer en draai alle schroeven vast met de bijgeleverde sleutel.",
    "Ställ skåpet i vardagsrummet och dra åt alla skruvar med den medföljande nyckeln.",
    "Proszę postawić szafę w salonie i dokręcić wszystkie śruby dołączonym kluczem.",
    "Поставьте шкаф в гостиной и затяните все винты ключом.",
)


def test_a_foreign_row_is_found_in_a_set_too_large_to_ask_for_each(tmp_path):
    dice = random.Random(5)
    rows = base_rows(dice)
    rows = (rows + [pair(row["prompt"] + " Today?", row["completion"]) for row in rows])[:6500]
    places = dice.sample(range(len(rows)), 5 * len(FOREIGN))
    for place, text in zip(places, itertools.cycle(FOREIGN)):
        rows[place] = pair(text, rows[place]["completion"])
    kept = list(read_rows(write(tmp_path / "large.jsonl", rows), None, None))
    told = {each.rows[0] for each in outlier_findings(kept) if each.kind == "language_outlier"}
    assert len(rows) >= 6000
    assert {place + 1 for place in places} <= told
    assert len(told) <= len(places) + 3
