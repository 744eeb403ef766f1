"""What distillation leaves for items that come later."""

from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.evaluation import evaluate
from seqrec.files import read_json, selection
from seqrec.knowledge import load_knowledge
from seqrec.metrics import ndcg

import numpy as np
import pytest

from student.model import Student
from student.text_map import FILE, TextMap
from teacher.model import Teacher
from teacher.text import read_new_texts

both = pytest.mark.parametrize("arch", ["gru", "transformer"])


@both
def test_a_distilled_students_untrained_rows_are_those_that_the_stored_map_predicts(
    tiny_cold_run: Path, tiny_cold: SequenceDataset, arch: str
) -> None:
    folder = tiny_cold_run / "students" / arch / "distilled"
    table = Student.from_pretrained(folder).item_embedding.weight.detach().numpy()
    reader = read_json(folder / "config.json")["text_reader"]
    predicted = np.zeros_like(table)
    predicted[1:] = TextMap.load(folder / FILE).rows(read_new_texts(tiny_cold.items, reader))
    untrained = tiny_cold.before_test().untrained_items
    assert len(untrained) >= 6
    # The catalogue's components are kept in half precision.
    np.testing.assert_allclose(table[untrained], predicted[untrained], rtol=1e-2, atol=1e-3)
    others = np.setdiff1d(np.arange(1, len(table)), untrained)
    assert np.abs(table[others] - predicted[others]).max(axis=1).min() > 1e-4
    assert not (tiny_cold_run / "students" / arch / "control" / FILE).exists()


@both
def test_the_recorded_validation_is_that_of_the_student_before_its_refit(
    tiny_cold_run: Path, tiny_cold: SequenceDataset, arch: str
) -> None:
    folder = tiny_cold_run / "students" / arch / "distilled"
    student = Student.from_pretrained(selection(folder))
    result = evaluate(student, tiny_cold, "valid", max_len=7)
    recorded = read_json(folder / "config.json")["valid_metrics"]["ndcg@10"]
    assert recorded == pytest.approx(float(ndcg(result.excluding_seen, 10).mean()))


def test_the_knowledge_holds_the_texts_as_the_teacher_has_them(
    tiny_cold_run: Path, tiny_cold: SequenceDataset
) -> None:
    knowledge = load_knowledge(tiny_cold_run / "knowledge", tiny_cold)
    teacher = Teacher.from_pretrained(tiny_cold_run / "teacher")
    assert np.array_equal(knowledge.text_components, teacher.item_table.components.numpy())
    assert np.array_equal(knowledge.text_map, teacher.text_map.numpy())
