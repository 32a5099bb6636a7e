// The terminal of `dimmer top`: a screen of its own, keys as they are pressed, and everything as it was on every way out.
//
//   open    alternate screen, no cursor, raw keys      \x1b[?1049h \x1b[?25l setRawMode
//   draw    from the top left, each line cleared to its end, the rest cleared: nothing flickers, nothing scrolls
//   close   the reverse; also from process.on('exit'), so that a bug or process.exit leaves no dead terminal behind
//
// A `kill -9` cannot be helped; `reset` can. Colour only where it is wanted (NO_COLOR, TERM); bold, underlined and inverse are no
// colours, and stay.

import * as fs from 'node:fs';
import type { FrameLine, Look } from '#query/top';
import { EXIT } from './exit-code.ts';

export type Key = 'quit' | 'interrupt' | 'left' | 'right' | 'up' | 'down' | 'enter' | 'escape' | 'refresh';

export type TerminalEvents = {
  readonly key: (key: Key) => void;
  readonly resized: () => void;
};

/** A test gives its own. */
export interface Terminal {
  size(): { readonly width: number; readonly height: number };
  open(events: TerminalEvents): void;
  draw(lines: readonly FrameLine[], colour: boolean): void;
  /** May be called twice, and before open. */
  close(): void;
}

const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';

/** Attributes first, then the colour that only repeats what the cell says. */
const SGR: Readonly<Record<Look, readonly [attributes: string, colour: string]>> = {
  head: ['1', ''],
  row: ['', ''],
  yes: ['', '32'],
  no: ['', '31'],
  maybe: ['', '33'],
  dim: ['2', ''],
  hot: ['1;4', '33'],
  chosen: ['7', ''],
};

export function drawSpans(line: FrameLine, colour: boolean): string {
  return line
    .map(({ text, look }) => {
      const [attributes, hue] = look === undefined ? ['', ''] : SGR[look];
      const codes = [attributes, colour ? hue : ''].filter((c) => c !== '').join(';');
      return codes === '' ? text : `\x1b[${codes}m${text}\x1b[0m`;
    })
    .join('');
}

/** One frame as the bytes that draw it over the last one. */
export const drawFrame = (lines: readonly FrameLine[], colour: boolean): string =>
  `\x1b[H${lines.map((l) => `${drawSpans(l, colour)}\x1b[K`).join('\r\n')}\x1b[J`;

const KEYS: Readonly<Record<string, Key>> = {
  q: 'quit',
  Q: 'quit',
  r: 'refresh',
  '\r': 'enter',
  '\n': 'enter',
  '\x03': 'interrupt',
  '\x1b': 'escape',
  A: 'up',
  B: 'down',
  C: 'right',
  D: 'left',
};

/** What was pressed, in order: several keys may come at once. Arrows are ESC [ A or ESC O A; what is unknown is nothing. */
export function keysOf(text: string): Key[] {
  const keys: Key[] = [];
  for (const [whole, arrow] of text.matchAll(/\x1b(?:\[[0-9;]*|O)([A-Za-z~])|[\s\S]/g)) {
    const key = arrow === undefined ? (/^[A-D]$/.test(whole) ? undefined : KEYS[whole]) : arrowOf(arrow);
    if (key !== undefined) keys.push(key);
  }
  return keys;
}

const arrowOf = (letter: string): Key | undefined => (/^[A-D]$/.test(letter) ? KEYS[letter] : undefined);

/** This process's terminal; undefined where stdout is none, or one that can only print. */
export function processTerminal(): Terminal | undefined {
  return process.stdout.isTTY === true && process.env.TERM !== 'dumb' ? new ProcessTerminal() : undefined;
}

class ProcessTerminal implements Terminal {
  #events: TerminalEvents | undefined;
  readonly #onData = (chunk: Buffer): void => {
    for (const key of keysOf(chunk.toString('utf8'))) this.#events?.key(key);
  };
  readonly #onResize = (): void => this.#events?.resized();
  readonly #onEnd = (): void => this.#events?.key('quit');
  readonly #onExit = (): void => this.close();

  size(): { width: number; height: number } {
    const { columns, rows } = process.stdout; // 0 where the terminal does not know, as on a serial line
    return { width: columns > 0 ? columns : 80, height: rows > 0 ? rows : 24 };
  }

  open(events: TerminalEvents): void {
    this.#events = events;
    process.on('exit', this.#onExit);
    process.stdout.on('resize', this.#onResize);
    if (process.stdin.isTTY === true) {
      process.stdin.setRawMode(true);
      process.stdin.on('data', this.#onData).on('end', this.#onEnd).resume();
    }
    process.stdout.write(ENTER);
  }

  draw(lines: readonly FrameLine[], colour: boolean): void {
    if (this.#events !== undefined) process.stdout.write(drawFrame(lines, colour));
  }

  close(): void {
    if (this.#events === undefined) return;
    this.#events = undefined;
    process.off('exit', this.#onExit);
    process.stdout.off('resize', this.#onResize);
    if (process.stdin.isTTY === true) {
      process.stdin.off('data', this.#onData).off('end', this.#onEnd).pause();
      process.stdin.setRawMode(false);
    }
    try {
      fs.writeSync(1, LEAVE); // at once: an exit hook cannot wait
    } catch {
      process.exitCode ??= EXIT.FAILED; // the terminal has gone, and we with it
    }
  }
}
