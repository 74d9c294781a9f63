"""Declare the columns of trained networks."""

from verglas.model.column import FLOAT, INT, TEXT, Column

__all__ = ["NETWORK"]

NETWORK = (
    Column("weights_path", TEXT, "File of the weights of a network."),
    Column("n_trained", INT, "Items that a network was trained on.", low=0),
    Column("n_held_out", INT, "Items kept back to judge the training.", low=0),
    Column("n_epochs", INT, "Rounds of training after which the network was best.", low=0),
    Column(
        "held_out_recall",
        FLOAT,
        "Share of the held-out items that the network finds.",
        low=0,
        high=1,
    ),
    Column(
        "start_recall",
        FLOAT,
        "Share of the held-out items that the network found before its training.",
        low=0,
        high=1,
    ),
    Column("held_out_loss", FLOAT, "Loss on the held-out items; smaller is better."),
    Column("start_loss", FLOAT, "Loss on the held-out items before the training."),
)
