// /proc/cmdline: the boot arguments, split into words the way the kernel splits them.
//
//   console=ttyS0 movablecore=512M "dyndbg=file x.c +p" -- init-argument
//   |- word -----||- word --------||- word, quoted -----|   |- not the kernel's: handed to init
//
// How words are cut and quotes read: base/next-arg.ts. A name may come twice; which one counts is its own affair (most
// take the last), so that all of them are kept in order.

import { type Arg, argOf, sameName, splitArgs } from '#base/next-arg';
import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { problem, singleLine } from './text.ts';

export type CmdlineWord = Arg;

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
  for (const raw of splitArgs(line)) {
    if (rest !== undefined) rest.push(raw);
    else if (raw === '--') rest = initWords;
    else words.push(argOf(raw));
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
