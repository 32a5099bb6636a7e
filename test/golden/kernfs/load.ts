// How tests read this folder: texts by path, and whole folders as the flat KernTree that labTree() expects.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { KernTree } from '../../../src/kernfs/source.ts';

const ROOT = fileURLToPath(new URL('.', import.meta.url));

export const goldenText = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

/** Paths below this folder whose last part is `name`, sorted. */
export const goldenPaths = (name: string): string[] =>
  readdirSync(ROOT, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.split('/').at(-1) === name)
    .sort();

/** One machine's folder, its root being "/". */
export function goldenFolder(folder: string): KernTree {
  const orAbsent = <T>(read: () => T, absent: T): T => {
    try {
      return read();
    } catch {
      return absent;
    }
  };
  return {
    readText: (path) => orAbsent(() => goldenText(folder + path), undefined),
    list: (path) => orAbsent(() => readdirSync(join(ROOT, folder + path)).sort(), []),
  };
}
