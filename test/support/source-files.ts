// The repository's own files, for the tests that look at them (tidy, import rules, docs).

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const SKIPPED = new Set(['node_modules', 'dist', '.git', 'coverage', 'scratch']);

/** Paths relative to the repository, sorted; everything that git knows or would add, or all files where there is no git. */
export function repositoryFiles(): string[] {
  try {
    const out = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const files = out.split('\n').filter((f) => f !== '' && existsSync(join(ROOT, f)));
    if (files.length > 0) return [...new Set(files)].sort();
  } catch {
    // No git here (a tarball): walk instead.
  }
  return walk(ROOT).sort();
}

function walk(dir: string): string[] {
  return readdirSync(dir).flatMap((name) => {
    if (SKIPPED.has(name)) return [];
    const path = join(dir, name);
    return statSync(path).isDirectory() ? walk(path) : [relative(ROOT, path)];
  });
}

export const textOf = (file: string): string => readFileSync(join(ROOT, file), 'utf8');

/** The text without comments and the contents of strings: what the program does, not what it says. */
export const codeOf = (text: string): string =>
  text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[^:'"`\\])\/\/.*$/gm, '$1');
