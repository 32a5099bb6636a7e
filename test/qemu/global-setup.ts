// Before the lane: builds the guest once, or says loudly what is missing and lets every scenario be skipped.
//
//   DIMMER_QEMU=require    what is missing is an error: for machines that are meant to have it all

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { buildGuest, skippedLines } from '../../tools/build-guest.mjs';

/** @returns what clears up after the lane */
export default function setup(project: TestProject): () => void {
  const locks = mkdtempSync(join(tmpdir(), 'dimmer-locks-'));
  const clear = (): void => rmSync(locks, { recursive: true, force: true });
  project.provide('locks', locks);
  const start = performance.now();
  const guest = buildGuest();
  if (guest.why === undefined) {
    for (const note of guest.notes) console.log(note);
    console.log(`guest ready after ${((performance.now() - start) / 1000).toFixed(1)} s`);
    project.provide('guest', guest);
    return clear;
  }
  const lines = skippedLines(guest.why);
  if (process.env.DIMMER_QEMU === 'require') {
    clear();
    throw new Error(lines.join('\n'));
  }
  for (const line of lines) console.error(line);
  project.provide('guest', undefined);
  return clear;
}
