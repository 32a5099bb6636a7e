// The example of the guide for authors of drivers runs as it stands.

import { expect, it } from 'vitest';
import { textOf } from '../../../test/support/source-files.ts';
import * as dimmer from '../index.ts';

it('docs/guide/drivers.md: the driver of the example gives its block up', () => {
  const example = /```ts\n([\s\S]*?)```/.exec(textOf('docs/guide/drivers.md'))?.[1] ?? '';
  const [first, ...rest] = example.split('\n');
  expect(first).toBe("import { driversEvictor, fixedAreas, Machine, machineState } from 'dimmer';");
  const lines: string[] = [];
  const console = { log: (...words: unknown[]) => lines.push(words.join(' ')) };
  // The example is valid JavaScript: its one import becomes a parameter.
  const run = new Function('{ driversEvictor, fixedAreas, Machine, machineState }', 'console', rest.join('\n'));
  run(dimmer, console);
  expect(lines).toHaveLength(2);
  expect(lines[0]).toContain('16 frames cannot move, the first is 100000 (driver, nic0)');
  expect(lines[1]).toBe('true MOVED');
});
