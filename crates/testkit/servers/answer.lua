-- Apache's answer (mod_lua): which process, of which generation, to which request.
function handle(r)
  local stat = io.open("/proc/self/stat")
  local pid = stat:read("*n")
  stat:close()
  local n = (r.args or ""):match("n=(%d+)") or ""
  r.content_type = "application/json"
  r:puts(string.format('{"pid": %d, "generation": "%s", "n": "%s"}', pid, os.getenv("STAYPUT_GENERATION") or "", n))
  return apache2.OK
end
