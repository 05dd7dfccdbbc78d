import t from 'tap';
import { MetricsPage } from '../src/index.ts';

t.test('the page shows samples, and histograms in cumulative form', async (t) => {
  const page = new MetricsPage(
    [
      { name: 'stor_volume_write_ops_total', help: 'writes', type: 'counter' },
      { name: 'stor_volume_io_latency_seconds', help: 'latency', type: 'histogram' },
    ],
    async () => ({
      samples: new Map([['stor_volume_write_ops_total', [{ labels: { volume: 'db' }, value: 3 }]]]),
      histograms: new Map([
        [
          'stor_volume_io_latency_seconds',
          [
            {
              labels: { volume: 'db', op: 'write' },
              bounds: [0.001, 0.01],
              counts: [1, 2, 0],
              sum: 0.02,
            },
          ],
        ],
      ]),
    }),
  );
  const text = await page.text();
  t.match(text, 'stor_volume_write_ops_total{volume="db"} 3');
  t.match(text, 'stor_volume_io_latency_seconds_bucket{volume="db",op="write",le="0.001"} 1');
  t.match(text, 'stor_volume_io_latency_seconds_bucket{volume="db",op="write",le="0.01"} 3');
  t.match(text, 'stor_volume_io_latency_seconds_bucket{volume="db",op="write",le="+Inf"} 3');
  t.match(text, 'stor_volume_io_latency_seconds_count{volume="db",op="write"} 3');
  t.match(text, 'process_cpu_seconds_total');
});
