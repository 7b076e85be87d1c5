def overview(runs):
    from matplotlib.figure import Figure

    return Figure()
