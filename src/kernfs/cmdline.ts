// /proc/cmdline: the boot arguments, split into words the way the kernel splits them.
//
//   console=ttyS0 movablecore=512M "dyndbg=file x.c +p" -- init-argument
//   |- word -----||- word --------||- word, quoted -----|   |- not the kernel's: handed to init
//
// Rules: blanks separate unless inside double quotes, which cannot be escaped; a quote before the word or right after
// its first "=" is not part of the value, nor is the one that closes it; "-" and "_" are the same in a name. A name
// may come twice; which one counts is its own affair (most take the last), so that all of them are kept in order.
// Follows Linux v6.12 lib/cmdline.c: next_arg(), kernel/params.c: parameq().

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { problem, singleLine } from './text.ts';

export type CmdlineWord = {
  readonly key: string;
  /** Text after the first "="; absent for a word without one ("movable_node"). */
  readonly value?: string;
};

export type Cmdline = {
  /** The line itself, without its newline: what printCmdline writes. */
  readonly line: string;
  /** The kernel's words, in order. */
  readonly words: readonly CmdlineWord[];
  /** Words after "--", verbatim. */
  readonly initWords: readonly string[];
};

/** Any single line is a command line; refused only when the text is not one line of text. */
export function parseCmdline(text: string, file = '/proc/cmdline'): Result<Cmdline, KernfsProblem> {
  const line = singleLine(text);
  if (line === undefined) return problem(file, 2, 'boot arguments are one line of text, this has more');
  const words: CmdlineWord[] = [];
  const initWords: string[] = [];
  let rest: string[] | undefined;
  for (const raw of splitWords(line)) {
    if (rest !== undefined) rest.push(raw);
    else if (raw === '--') rest = initWords;
    else words.push(wordOf(raw));
  }
  return ok({ line, words, initWords });
}

export const printCmdline = (c: Cmdline): string => `${c.line}\n`;

/** Values of every word with this name, in order; a bare word counts as ''. */
export function cmdlineValues(c: Cmdline, key: string): readonly string[] {
  const wanted = sameName(key);
  return c.words.filter((w) => sameName(w.key) === wanted).map((w) => w.value ?? '');
}

/** The last word's value ('' for a bare word), undefined when there is none. */
export const cmdlineValue = (c: Cmdline, key: string): string | undefined => cmdlineValues(c, key).at(-1);

const sameName = (key: string): string => key.replaceAll('-', '_');

function splitWords(line: string): string[] {
  const words: string[] = [];
  let word = '';
  let inQuote = false;
  for (const c of line) {
    if (c === '"') inQuote = !inQuote;
    if (!inQuote && (c === ' ' || c === '\t')) {
      if (word !== '') words.push(word);
      word = '';
    } else word += c;
  }
  if (word !== '') words.push(word);
  return words;
}

function wordOf(raw: string): CmdlineWord {
  const wholeQuoted = raw.startsWith('"');
  let word = wholeQuoted ? raw.slice(1) : raw;
  // next_arg() looks for "=" from the second character on: "=x" is a name.
  const equals = word.indexOf('=', 1);
  if (equals < 0) {
    if (wholeQuoted && word.endsWith('"')) word = word.slice(0, -1);
    return { key: word };
  }
  let value = word.slice(equals + 1);
  const valueQuoted = value.startsWith('"');
  if (valueQuoted) value = value.slice(1);
  if ((valueQuoted || wholeQuoted) && value.endsWith('"')) value = value.slice(0, -1);
  return { key: word.slice(0, equals), value };
}
