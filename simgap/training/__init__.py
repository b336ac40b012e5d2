"""What moves weights: descent on two regularisers, and a task whose specialisation is known."""

from simgap.training.gram_descent import RegulariseGram, gram_descent
from simgap.training.pairwise_descent import RegularisePairs, pairwise_descent
from simgap.training.teacher_student import STUDENTS, TEACHERS, Specialisation, Task, Trained, as_trials, specialisation, teachers, train

__all__ = [
    "STUDENTS",
    "TEACHERS",
    "RegulariseGram",
    "RegularisePairs",
    "Specialisation",
    "Task",
    "Trained",
    "as_trials",
    "gram_descent",
    "pairwise_descent",
    "specialisation",
    "teachers",
    "train",
]
