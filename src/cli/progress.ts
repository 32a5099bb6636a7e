// Progress: one line on stderr that rewrites itself, on a terminal only. Elsewhere it says nothing at all.

import type { Io } from './io.ts';

const BAR = 24;
/** Redrawing costs a write: at most so many per phase. */
const STEPS_MAX = 100;

export class Progress {
  readonly #io: Io;
  readonly #on: boolean;
  #shown = '';

  constructor(io: Io, quiet: boolean) {
    this.#io = io;
    this.#on = io.errIsTty && !quiet;
  }

  say(what: string): void {
    this.#draw(`${what} ...`);
  }

  step(what: string, done: number, of: number): void {
    if (done % Math.ceil(of / STEPS_MAX) !== 0 && done !== of) return;
    const full = Math.round((BAR * done) / of);
    this.#draw(`${what} [${'#'.repeat(full)}${'.'.repeat(BAR - full)}] ${done}/${of}`);
  }

  /** Takes the line away: what follows is the answer. */
  end(): void {
    if (this.#shown !== '') this.#io.err(`\r${' '.repeat(this.#shown.length)}\r`);
    this.#shown = '';
  }

  #draw(text: string): void {
    if (!this.#on) return;
    this.#io.err(`\r${text.padEnd(this.#shown.length)}`);
    this.#shown = text;
  }
}
