#!/usr/bin/env escript
%% An HTTP server on gen_tcp: a process for each connection, one request each.

main([Port]) ->
    Options = [binary, {ip, {127, 0, 0, 1}}, {active, false}, {packet, http}, {reuseaddr, true}, {backlog, 128}],
    {ok, Listener} = gen_tcp:listen(list_to_integer(Port), Options),
    accept(Listener).

accept(Listener) ->
    {ok, Peer} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> answer(Peer, "") end end),
    gen_tcp:controlling_process(Peer, Pid),
    Pid ! go,
    accept(Listener).

answer(Peer, N) ->
    case gen_tcp:recv(Peer, 0) of
        {ok, {http_request, _, {abs_path, Path}, _}} ->
            answer(Peer, parameter(Path));
        {ok, http_eoh} ->
            Generation = os:getenv("STAYPUT_GENERATION", ""),
            Body = io_lib:format("{\"pid\": ~s, \"generation\": \"~s\", \"n\": \"~s\"}", [os:getpid(), Generation, N]),
            Head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ~b\r\n\r\n",
            gen_tcp:send(Peer, [io_lib:format(Head, [iolist_size(Body)]), Body]),
            gen_tcp:close(Peer);
        {ok, _} ->
            answer(Peer, N);
        {error, _} ->
            gen_tcp:close(Peer)
    end.

parameter(Path) ->
    case string:split(Path, "n=") of
        [_, N] -> hd(string:split(N, "&"));
        _ -> ""
    end.
