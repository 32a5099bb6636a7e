// Goals as people type them: what is wanted, in the words of the command line.
//
//   remove  size:4G | dimm:dimm1 | node:1 | block:32-39 | range:0x..-0x.. | zone:1/Normal
//   add     size:10G node:1            either word first
//   resize  size:8G
//
// Sizes carry a unit, targets their type, as everywhere (users C). Only the form is looked at here; whether the machine has
// such a thing is the planner's question.

import { parseSize } from '#base/format';
import { err, ok, type Result } from '#base/result';
import type { Goal } from './plan.ts';

type GoalOf<V extends Goal['verb']> = Extract<Goal, { verb: V }>;

const TARGETS = ['size', 'dimm', 'node', 'block', 'range', 'zone'];

/** 1207959552 -> "1152M": exact, unlike what tables show. */
export function sizeWord(bytes: number): string {
  const units = ['B', 'K', 'M', 'G', 'T'];
  let k = 0;
  while (k + 1 < units.length && bytes > 0 && bytes % 1024 ** (k + 1) === 0) k++;
  return `${bytes / 1024 ** k}${units[k]}`;
}

/** "size:4G" -> bytes; undefined when it is not of this form, or nothing. */
export function sizeOf(word: string): number | undefined {
  const bytes = word.startsWith('size:') ? parseSize(word.slice(5)) : undefined;
  return bytes === 0 ? undefined : bytes;
}

/** An id that QEMU takes. Follows QEMU v7.2 util/id.c: id_wellformed(). */
export const isDeviceId = (id: string): boolean => /^[A-Za-z][A-Za-z0-9._-]{0,127}$/.test(id);

export function removeGoal(target: string): Result<GoalOf<'remove'>, string> {
  const kind = target.slice(0, Math.max(0, target.indexOf(':')));
  if (!TARGETS.includes(kind) || target.length === kind.length + 1) {
    return err(
      `"${target}" does not say what to remove: size:4G, dimm:ID, node:1, block:32-39, range:.. or zone:1/Normal`,
    );
  }
  if (kind !== 'size') return ok({ verb: 'remove', target });
  const bytes = sizeOf(target);
  return bytes === undefined
    ? err(`"${target}": a size has a unit, as in size:512M or size:4G`)
    : ok({ verb: 'remove', target, bytes });
}

/** @param words  "size:10G" and "node:1", in any order */
export function addGoal(words: readonly string[]): Result<GoalOf<'add'>, string> {
  const size = words.filter((w) => w.startsWith('size:'));
  const node = words.filter((w) => w.startsWith('node:'));
  const example = 'as in: add size:10G node:1';
  const other = words.find((w) => !size.includes(w) && !node.includes(w));
  if (other !== undefined) return err(`"${other}" is neither a size nor a node, ${example}`);
  if (size.length !== 1 || node.length !== 1) return err(`how much, and on which node? ${example}`);
  const bytes = sizeOf(size[0] as string); // one each, just counted
  if (bytes === undefined) return err(`"${size[0]}": a size has a unit, ${example}`);
  const m = /^node:(\d{1,4})$/.exec(node[0] as string);
  if (m === null) return err(`"${node[0]}": a node is a number, ${example}`);
  return ok({ verb: 'add', bytes, node: Number(m[1]) });
}

export function resizeGoal(word: string): Result<GoalOf<'resize'>, string> {
  const bytes = sizeOf(word);
  return bytes === undefined
    ? err(`"${word}": how much memory is it to have in all? As in: resize size:8G`)
    : ok({ verb: 'resize', bytes });
}
