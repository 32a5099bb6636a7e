// /proc/version: "Linux version 6.1.0-56-amd64 (builder) (gcc ...) #1 SMP ... Debian 6.1.192-2\n".
//
//   release   what `uname -r` says; distributions number it their own way (Debian: 6.1.0-56-amd64 is 6.1.192)
//   rest      builder, compiler, build line: free text, kept to the byte
//
// Only major and minor decide about formats and rules: they are the part of the release that is upstream's.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { problem, quoted, singleLine } from './text.ts';

export type KernelVersion = {
  readonly release: string;
  readonly major: number;
  readonly minor: number;
  /** All that follows the release, its leading blank included; may be empty. */
  readonly rest: string;
};

const PREFIX = 'Linux version ';

export function parseVersion(text: string, file = '/proc/version'): Result<KernelVersion, KernfsProblem> {
  const line = singleLine(text);
  if (line === undefined) return problem(file, 2, 'the kernel version is one line, this text has more');
  const m = /^Linux version ((0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})(?![0-9])[^ ]*)(| .*)$/.exec(line);
  if (m === null) return problem(file, 1, `expected "Linux version MAJOR.MINOR...", found ${quoted(line)}`);
  return ok({ release: m[1], major: Number(m[2]), minor: Number(m[3]), rest: m[4] });
}

export const printVersion = (v: KernelVersion): string => `${PREFIX}${v.release}${v.rest}\n`;

/** Is the kernel `major.minor` or newer? */
export const isAtLeast = (v: KernelVersion, release: { readonly major: number; readonly minor: number }): boolean =>
  v.major > release.major || (v.major === release.major && v.minor >= release.minor);
