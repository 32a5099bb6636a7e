// One case of bench/pools-cases.mjs, one workload, one process: prints one JSON row. pools.mjs starts these.

import { CASES } from './pools-cases.mjs';
import { runWorkload } from './workloads.mjs';

const [, , name, workload, sizes] = process.argv;
console.log(JSON.stringify(runWorkload(workload, CASES[name], JSON.parse(sizes))));
