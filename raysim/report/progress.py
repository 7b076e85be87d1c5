class Progress:
    def __init__(self, rounds, shown):
        self.shown = shown

    def __enter__(self):
        return self

    def __exit__(self, *a):
        pass

    def watch(self, event):
        if self.shown:
            print(event)

    def close(self, result):
        pass
