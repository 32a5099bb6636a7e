// List format: sets of small numbers as the kernel writes them (node/online, cpulist): "0-1,4".
//
//   list   = "" | range *( "," range )        ascending, without overlap
//   range  = number | number "-" number
//
// The printer joins neighbours, so "0,1" is read and printed "0-1"; the kernel itself only writes the joined form.
// Follows Linux v6.12 lib/bitmap-str.c, lib/vsprintf.c ("%*pbl"). The strides of boot arguments ("0-31:2/4") never
// appear in what the kernel prints and are refused.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { problem, quoted, readCount, singleLine } from './text.ts';

/** Ids stay below this: more than any kernel has CPUs (8192) or nodes (1024), little enough to expand. */
const LIST_MAX = 65536;

/** The numbers of "0-1,4", ascending; [] for an empty set. A newline at the end is allowed. Cost O(numbers). */
export function parseList(text: string, file = 'list'): Result<number[], KernfsProblem> {
  const line = singleLine(text);
  if (line === undefined) return problem(file, 2, 'a list like "0-1,4" is one line, this text has more');
  const members: number[] = [];
  if (line.trim() === '') return ok(members);
  let last = -1;
  for (const part of line.trim().split(',')) {
    const ends = part.split('-').map(readCount);
    const start = ends[0];
    const end = ends.length === 2 ? ends[1] : start;
    if (ends.length > 2 || start === undefined || end === undefined || start < 0 || end < start || end >= LIST_MAX) {
      return problem(file, 1, `${quoted(part)} is not a number below ${LIST_MAX} or an ascending range of them`);
    }
    if (start <= last) return problem(file, 1, `the list does not ascend at ${quoted(part)}`);
    for (let n = start; n <= end; n++) members.push(n);
    last = end;
  }
  return ok(members);
}

/** [0, 1, 4] -> "0-1,4"; ascending numbers without repetition. No newline. */
export function printList(members: readonly number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < members.length; ) {
    let j = i;
    while (j + 1 < members.length && members[j + 1] === members[j] + 1) j++;
    parts.push(i === j ? String(members[i]) : `${members[i]}-${members[j]}`);
    i = j + 1;
  }
  return parts.join(',');
}
