import http from 'node:http';

export interface PluginResponse {
  status: number;
  contentType: string;
  /** what was answered, as JSON */
  body: Record<string, unknown>;
}

/** Sends one request as dockerd does; `body` that is no text is sent as JSON. */
export function callPlugin(
  socketPath: string,
  path: string,
  body: unknown,
  options: { method?: string; contentType?: string; signal?: AbortSignal } = {},
): Promise<PluginResponse> {
  const { method = 'POST', contentType = 'application/vnd.docker.plugins.v1.2+json' } = options;
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const request = http.request({
      socketPath,
      path,
      method,
      agent: false,
      headers: { host: 'plugin', 'content-type': contentType },
      ...(options.signal ? { signal: options.signal } : {}),
    });
    request.once('error', reject);
    request.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        resolve({
          status: response.statusCode ?? 0,
          contentType: response.headers['content-type'] ?? '',
          body: JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown>,
        });
      });
    });
    request.end(text);
  });
}
