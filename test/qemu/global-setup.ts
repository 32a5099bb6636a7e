// Before the lane: builds the guest once, or says loudly what is missing and lets every scenario be skipped.
//
//   DIMMER_QEMU=require    what is missing is an error: for machines that are meant to have it all

import type { TestProject } from 'vitest/node';
import { buildGuest, skippedLines } from '../../tools/build-guest.mjs';

export default function setup(project: TestProject): void {
  const start = performance.now();
  const guest = buildGuest();
  if (guest.why === undefined) {
    for (const note of guest.notes) console.log(note);
    console.log(`guest ready after ${((performance.now() - start) / 1000).toFixed(1)} s`);
    project.provide('guest', guest);
    return;
  }
  const lines = skippedLines(guest.why);
  if (process.env.DIMMER_QEMU === 'require') throw new Error(lines.join('\n'));
  for (const line of lines) console.error(line);
  project.provide('guest', undefined);
}
