"""What the report asks of the store about overlap: each test question of a study beside the nearest training question."""

from __future__ import annotations

from store.connection import Store
from store.queries import Rows


def overlap_rows(store: Store, study_key: str) -> Rows:
    """One row a dataset and test question of a study whose overlap has landed, by dataset and question.

    ``question``, ``nearest_question`` and ``leaked_in_question`` are texts (None: there is none); ``by_ngram`` and
    ``by_cosine`` say whether this measure flags it, by the thresholds that the overlap was measured with (``by_cosine`` is
    None where no encoder ran). The other columns are those of ``question_overlaps``.
    """
    return store.query(
        """
        SELECT so.dataset, o.question_key, q.question_id, q.text AS question, n.text AS nearest_question, o.exact, o.ngram,
               o.ngram >= (u.spec ->> 'ngram_share')::DOUBLE AS by_ngram, o.cosine,
               o.cosine > (u.spec ->> 'cosine')::DOUBLE AS by_cosine, o.leak, l.text AS leaked_in_question, o.flagged
        FROM study_overlaps so JOIN question_overlaps o USING (overlap_key) JOIN units u ON u.unit_key = so.overlap_key
        JOIN questions q ON q.question_key = o.question_key
        LEFT JOIN questions n ON n.question_key = o.nearest LEFT JOIN questions l ON l.question_key = o.leaked_in
        WHERE so.study_key = $study ORDER BY so.dataset, q.question_id, o.question_key
        """,
        {"study": study_key},
    )
