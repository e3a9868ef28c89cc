<?php
header('Content-Type: application/json');
echo json_encode(['pid' => getmypid(), 'generation' => getenv('STAYPUT_GENERATION') ?: '', 'n' => $_GET['n'] ?? '']);
