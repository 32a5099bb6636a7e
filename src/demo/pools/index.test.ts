// The list of demonstrations. That each keeps the shape of demo.ts and runs the same twice: test/cli/demo.test.ts.

import { describe, expect, it } from 'vitest';
import { POOL_DEMOS } from './index.ts';

describe('demos of pools', () => {
  it('each has a name of its own, in the words of a command line', () => {
    const names = POOL_DEMOS.map((d) => d.name);
    expect(POOL_DEMOS.length).toBeGreaterThan(0);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-z]+(-[a-z]+)*$/);
    for (const demo of POOL_DEMOS) expect(demo.problem).toMatch(/^\S[^\n]*\S$/);
  });
});
