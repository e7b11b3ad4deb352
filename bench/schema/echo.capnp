@0xd2f3a1c5b7e94608;

interface Echo {
  echo @0 (data :Data) -> (data :Data);
  # Returns what it is given.

  items @1 (items :UInt32, size :UInt32, to :Items) -> ();
  # Sends as many items as are wanted, of that many bytes.
}

interface Items {
  item @0 (data :Data) -> stream;

  end @1 ();
  # Returns when all items have arrived.
}
