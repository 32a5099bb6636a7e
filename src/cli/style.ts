// Style: colour and the length of text on a terminal.
//
// Colour repeats what words say, never more: yes green, maybe yellow, no red.

import type { Verdict } from '#twin/index';

export type Paint = 'green' | 'red' | 'yellow' | 'dim' | 'bold';

const SGR: Readonly<Record<Paint, string>> = { green: '32', red: '31', yellow: '33', dim: '2', bold: '1' };

export const paint = (text: string, how: Paint | undefined, on: boolean): string =>
  on && how !== undefined && text !== '' ? `\x1b[${SGR[how]}m${text}\x1b[0m` : text;

export const VERDICT_PAINT: Readonly<Record<Verdict, Paint>> = { yes: 'green', no: 'red', maybe: 'yellow' };

/** Words into lines of at most `width`; a word longer than that stays whole. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  return lines;
}

/** A paragraph with a hanging indent: "Stopped by:  text ...". */
export function hanging(label: string, text: string, options: { indent: number; width: number | undefined }): string {
  const { indent, width } = options;
  const room = width === undefined ? Number.POSITIVE_INFINITY : Math.max(30, width - indent);
  return wrap(text, room)
    .map((line, k) => (k === 0 ? label.padEnd(indent) : ' '.repeat(indent)) + line)
    .join('\n');
}

/** 2.36 -> "2.4ms", 153 -> "153ms", 1530 -> "1.5s", 90000 -> "1.5min". */
export function formatMs(ms: number): string {
  if (ms < 10) return `${Math.round(ms * 10) / 10}ms`;
  if (ms < 1000) return `${Math.round(ms)}ms`;
  return ms < 60_000 ? `${Math.round(ms / 100) / 10}s` : `${Math.round(ms / 6_000) / 10}min`;
}
