"""Who had which labels, in a report's words."""

from kd_jax.report import verdict


def test_unequal_labels_are_told(make_results):
    results = make_results()
    results["data"] |= {"labelled": 100, "transfer": 1157, "teacher_labelled": 1257}
    told = " ".join(verdict.judge(results).paragraphs)
    assert "the labels of 100 images, the teacher those of 1,257; of 1,157 more images" in told
    results["data"]["student_sees"] = False
    told = " ".join(verdict.judge(results).paragraphs)
    assert "The baseline had the labels of 100 images, the teacher those of 1,257. The student saw no image" in told
    results["data"] |= {"labelled": 1257, "transfer": 0, "student_sees": True}
    assert "labels of" not in " ".join(verdict.judge(results).paragraphs)
