// Lines of what happens, stamped, a bounded number of them; the same one again is counted, not repeated.
//
//   13:10:20 migrating pfn 40000 failed ret:1024          the kernel says it ten times a second:
//   13:10:24 migrating pfn 40000 failed ret:1024 (38 times)

type Entry = { time: string; readonly text: string; times: number };

export class WatchLines {
  readonly #kept: number;
  #entries: Entry[] = [];

  /** @param kept  how many different lines are kept; the oldest go */
  constructor(kept: number) {
    this.#kept = kept;
  }

  /** @returns the line as it reads now */
  push(time: string, text: string): string {
    const last = this.#entries[this.#entries.length - 1];
    if (last?.text === text) {
      last.time = time;
      last.times++;
      return sayEntry(last);
    }
    const entry = { time, text, times: 1 };
    this.#entries.push(entry);
    if (this.#entries.length > this.#kept) this.#entries.shift();
    return sayEntry(entry);
  }

  /** Oldest first. */
  get lines(): string[] {
    return this.#entries.map(sayEntry);
  }
}

const sayEntry = (e: Entry): string => `${e.time} ${e.text}${e.times === 1 ? '' : ` (${e.times} times)`}`;
